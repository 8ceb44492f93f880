"""LlamaGen's parts in miniature."""

from __future__ import annotations

import pytest
import torch
from toys import picture

from obverse.codec import Codec
from obverse.config import CodecConfig
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.next_token import LlamaPrior
from obverse.numerics import prepare
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse_llamagen.checkpoints import PriorFormat, TokenizerFormat

ENCODER = {"embed_dim": 4, "z_channels": 32, "width": 64, "multipliers": [1, 1, 1], "blocks": 1}
PRIOR = {"vocabulary": 19, "dim": 24, "layers": 2, "heads": 2, "hidden": 64, "classes": 3, "window": 4}


def prior() -> LlamaPrior:
    return fill(LlamaPrior(**PRIOR), "llamagen", gain=2.0)


class TestEncoder(EncoderContract):
    def make(self) -> Encoder:
        return fill(VQAutoencoder(**ENCODER, attention_levels=[2]), "llamagen")


class TestQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return fill(VectorQuantizer(size=50, dim=6, unit=True), "llamagen")


class TestPrior(PriorContract):
    """Head widths of 12: three frequencies per axis, an odd number as in GPT-3B."""

    def make(self) -> Prior:
        return prior()

    def layouts(self) -> list[Layout]:
        return [Layout(1, 1, 1), Layout(2, 3, 4)]

    def conditions(self) -> list[Condition]:
        return [Condition(), Condition(label=1), Condition(label=2, guidance=2.5)]


class TestClasses:
    LAYOUT = Layout(2, 3, 4)
    TOKENS = torch.randint(19, (2, 12), generator=torch.Generator().manual_seed(0))

    def logits(self, label: int | None = None, guidance: float | None = None) -> torch.Tensor:
        with torch.inference_mode():
            return prior().logits(self.TOKENS, self.LAYOUT, Condition(label=label, guidance=guidance))

    def test_there_is_one_row_more_than_classes(self) -> None:
        assert prior().classes == 3
        assert len(prior().model.cls_embedding.weight) == 4

    def test_every_class_and_none_differ(self) -> None:
        found = [self.logits(label) for label in (None, 0, 1, 2)]
        assert all(not torch.equal(found[i], found[j]) for i in range(4) for j in range(i))

    def test_guidance_moves_away_from_no_class(self) -> None:
        expected = self.logits() + (self.logits(1) - self.logits()) * 3
        torch.testing.assert_close(self.logits(1, 3.0), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("label", "guidance"), [(1, 1.0), (1, 0.0), (None, 3.0)])
    def test_guidance_without_effect(self, label: int | None, guidance: float) -> None:
        assert torch.equal(self.logits(label, guidance), self.logits(label))


@pytest.mark.parametrize("room", [1, 19 * 2 * 5, 2**22])
@torch.inference_mode()
def test_logits_of_a_pass_come_in_pieces(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one position, of five, of all."""
    monkeypatch.setattr("obverse.next_token.LOGITS", room)
    exact, seen = prepare(prior(), "exact"), []
    assert isinstance(exact, LlamaPrior)
    exact.model.output.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    blocks = exact.teacher_forced({"tokens": TestClasses.TOKENS}, TestClasses.LAYOUT, Condition(label=0))
    assert len(list(blocks)) == 12
    assert seen == {1: [1] * 12, 190: [5, 5, 2], 2**22: [12]}[room]


@pytest.fixture(scope="module")
def codec() -> Codec:
    parts = {
        "encoder": {"name": "llamagen", **ENCODER, "attention_levels": [2]},
        "quantizer": {"name": "llamagen", "size": 19, "dim": 4, "unit": True},
        "prior": {"name": "llamagen", **PRIOR},
        "coder": {"name": "range"},
    }
    config = CodecConfig("tiny-llamagen", parts)
    pipeline = build(config)
    for name, module in pipeline.modules.items():
        fill(module, name, gain=2.0)
    return Codec(config, pipeline)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (27, 18), (5, 9)])
def test_round_trip(codec: Codec, width: int, height: int) -> None:
    """A whole window, windows that overlap with pixels to spare, and less than a window."""
    assert codec.numerics == "exact"
    check_roundtrip(codec, picture(width, height))


class TestFormats:
    def test_each_takes_its_own_files_alone(self) -> None:
        tokenizer = {"encoder.conv_blocks.0.res.0.conv1.weight": (1,), "quantize.embedding.weight": (1,)}
        gpt = {"cls_embedding.embedding_table.weight": (1,), "layers.0.attention.wqkv.weight": (1,)}
        text = {"cls_embedding.cap_proj.fc1.weight": (1,), "layers.0.attention.wqkv.weight": (1,)}
        taming = {"encoder.down.0.block.0.conv1.weight": (1,), "quantize.embedding.weight": (1,)}
        assert [TokenizerFormat().recognises(shapes) for shapes in (tokenizer, gpt, text, taming)] == [1, 0, 0, 0]
        assert [PriorFormat().recognises(shapes) for shapes in (tokenizer, gpt, text, taming)] == [0, 1, 0, 0]

    def test_levels_of_the_decoder_are_turned_around(self) -> None:
        """Official blocks run from 0 up, ours from the last down."""
        deepest, finest = "decoder.conv_blocks.0.attn.1.q.weight", "decoder.conv_blocks.2.res.0.conv1.weight"
        ours = TokenizerFormat().translate({deepest: torch.zeros(1), finest: torch.zeros(1)})
        assert list(ours) == ["encoder.decoder.up.2.attn.1.q.weight", "encoder.decoder.up.0.block.0.conv1.weight"]

    def test_what_is_no_weight_is_left_out(self) -> None:
        assert TokenizerFormat().translate({"quantize.codebook_used": torch.zeros(1)}) == {}
        assert PriorFormat().translate({"freqs_cis": torch.zeros(1)}) == {}
