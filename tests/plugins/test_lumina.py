"""Chameleon's and Lumina-mGPT's parts in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import picture

from obverse.codec import Codec
from obverse.config import CodecConfig
from obverse.errors import ConfigError, WrongWeightsError
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.numerics import prepare
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse_lumina.checkpoints import LuminaTransformer
from obverse_lumina.prior import LuminaPrior
from obverse_lumina.vocabulary import grid_name, ids_of, image_name, read_ids

ENCODER = {"embed_dim": 4, "z_channels": 8, "width": 32, "multipliers": [1, 2, 1], "blocks": 1, "multiple": 8}
IDS = {"image": 3, "begin": 25, "row_end": 26, "grid": 30}
SIZES = {"codes": 19, "vocabulary": 40, "dim": 24, "layers": 2, "heads": 4, "hidden": 40, "window": 4}


def prior(**changes: Any) -> LuminaPrior:
    return fill(LuminaPrior(**SIZES | IDS | changes), "lumina", gain=2.0)


class TestEncoder(EncoderContract):
    """Sizes are multiples of two cells, as grid tokens count them."""

    def make(self) -> Encoder:
        return fill(VQAutoencoder(**ENCODER), "lumina")


class TestQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return fill(VectorQuantizer(size=50, dim=6), "lumina")


class TestPrior(PriorContract):
    def make(self) -> Prior:
        return prior()

    def layouts(self) -> list[Layout]:
        return [Layout(1, 1, 1), Layout(3, 2, 4)]


class TestPriorOfSharedKeys(PriorContract):
    """What the 34B models have, and codes that are not in the order of their tokens."""

    def make(self) -> Prior:
        return prior(key_heads=2, norm_after=True, image=[3 + 7 * code % 19 for code in range(19)])

    def layouts(self) -> list[Layout]:
        return [Layout(2, 4, 2)]


class TestPriorBehindAPrompt(PriorContract):
    def make(self) -> Prior:
        return prior(prompt=[0, 1, 2, 38])

    def conditions(self) -> list[Condition]:
        return [Condition(), Condition(guidance=3.0)]


@torch.inference_mode()
def test_guidance_needs_a_prompt() -> None:
    tokens, layout = {"tokens": torch.arange(8)[None]}, Layout(1, 2, 4)

    def logits(made: LuminaPrior, guidance: float | None) -> torch.Tensor:
        blocks = prepare(made, "exact").teacher_forced(tokens, layout, Condition(guidance=guidance))
        return torch.cat([block.distribution.logits for block in blocks], dim=1)  # type: ignore[attr-defined]

    without, prompt = logits(prior(), None), [0, 1, 2, 38]
    assert torch.equal(logits(prior(), 3.0), without)
    assert torch.equal(logits(prior(prompt=prompt), 0.0), without)
    assert torch.equal(logits(prior(prompt=prompt), 1.0), logits(prior(prompt=prompt), None))
    assert not torch.equal(logits(prior(prompt=prompt), None), without)


class TestSequence:
    LAYOUT = Layout(1, 2, 4)
    CODES = torch.arange(8)[None]

    def test_codes_stand_between_a_prefix_and_row_ends(self) -> None:
        assert prior().sequence(self.CODES, self.LAYOUT).tolist() == [[25, 31, 32, 3, 4, 5, 6, 26, 7, 8, 9]]

    def test_an_odd_side_counts_as_the_next_even_one(self) -> None:
        assert prior().sequence(self.CODES[:, :3], Layout(1, 1, 3)).tolist() == [[25, 31, 32, 3, 4]]

    def test_step_by_step_every_token_is_fed_once(self) -> None:
        stepwise, fed = prepare(prior(), "native"), []
        stepwise.model.tok_embeddings.register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda _, inputs: fed.extend(inputs[0][0].tolist())
        )
        blocks = stepwise.blocks(self.LAYOUT, Condition())
        with torch.inference_mode():
            next(blocks)
            for code in range(7):
                blocks.send(torch.tensor([[code]]))
        assert fed == prior().sequence(self.CODES, self.LAYOUT)[0].tolist()

    @torch.inference_mode()
    def test_only_image_tokens_have_logits(self) -> None:
        model = prior().model
        hidden = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.output(hidden), (hidden @ model.output.weight.T)[..., 3:22])

    @torch.inference_mode()
    def test_codes_follow_their_tokens(self) -> None:
        order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
        plain, turned = prior(), prior(image=(order + 3).tolist())
        hidden = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(0))
        assert torch.equal(turned.logits(hidden), plain.logits(hidden)[..., order])
        tokens = turned.sequence(self.CODES, self.LAYOUT)
        assert torch.equal(tokens, plain.sequence(order[self.CODES], self.LAYOUT))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": [3, 4, 4]}, "image names 2 tokens, expected one for each of 19 codes"),
        ({"image": 30}, "tokens 25 to 48 are used, of a vocabulary of 40"),
        ({"window": 30}, "tokens 3 to 45 are used"),
        ({"prompt": [0, 40]}, "tokens 0 to 40 are used"),
    ],
)
def test_tokens_outside_of_the_vocabulary_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LuminaPrior(**SIZES | IDS | changes)


class TestVocabulary:
    def names(self) -> dict[str, int]:
        names = {image_name(code): 4 + code for code in range(12)} | {grid_name(n): 20 + n for n in range(4)}
        return names | {"<racm3:break>": 17, "<reserved08799>": 19}

    def test_ids_are_found_by_name(self, tmp_path: Path) -> None:
        file = tmp_path / "text_tokenizer.json"
        file.write_text(json.dumps({"model": {"vocab": self.names()}}), encoding="utf-8")
        assert read_ids(file) == {"image": 4, "begin": 17, "row_end": 19, "grid": 20}

    def test_codes_in_another_order(self) -> None:
        swapped = {image_name(0): 5, image_name(1): 4}
        assert ids_of(self.names() | swapped)["image"] == [5, 4, *range(6, 16)]

    def test_a_vocabulary_of_another_model_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no token is named IMGIMGAZ, <racm3:break>"):
            ids_of({"the": 0})

    def test_grid_tokens_must_follow_each_other(self) -> None:
        with pytest.raises(ConfigError, match=r"<reserved08802> has id 9, expected 22"):
            ids_of(self.names() | {grid_name(2): 9})

    @pytest.mark.parametrize("text", ["", "[]", '{"model": {}}'])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "text_tokenizer.json"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="cannot be read"):
            read_ids(file)


@pytest.mark.parametrize(("rows", "chosen"), [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (4, [0, 1, 2, 3])])
def test_norms_are_repeated_for_heads(rows: int, chosen: list[int]) -> None:
    weight = torch.arange(rows * 6.0).view(rows, 6)
    layer = "model.layers.0.self_attn"
    ours = LuminaTransformer().translate({f"{layer}.q_norm.bias": weight, f"{layer}.q_proj.weight": torch.zeros(24, 9)})
    assert torch.equal(ours["prior.model.layers.0.attention.q_norm.bias"], weight[chosen])


def small(**changes: Any) -> Codec:
    """A codec whose weights are seeded, with changes of its prior."""
    parts = {
        "encoder": {"name": "chameleon", **ENCODER},
        "quantizer": {"name": "chameleon", "size": 19, "dim": 4},
        "prior": {"name": "lumina", **SIZES, **IDS, **changes},
        "coder": {"name": "range"},
    }
    config = CodecConfig("tiny-lumina", parts)
    pipeline = build(config)
    for name, module in pipeline.modules.items():
        fill(module, name, gain=2.0)
    return Codec(config, pipeline)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return small()


@pytest.mark.parametrize(("width", "height"), [(16, 16), (27, 18), (5, 9)])
def test_round_trip(codec: Codec, width: int, height: int) -> None:
    """A whole window, windows that overlap with pixels to spare, and less than a window."""
    assert codec.numerics == "exact"
    check_roundtrip(codec, picture(width, height))


def test_groups_of_windows_are_told_by_the_fingerprint(codec: Codec) -> None:
    """Smaller groups need less memory and make another stream, which no other codec takes for its own."""
    other, image = small(group=1), picture(32, 32)
    data = check_roundtrip(codec, image)
    assert codec.rate(image).bits == pytest.approx(other.rate(image).bits)
    assert check_roundtrip(other, image) != data
    with pytest.raises(WrongWeightsError):
        other.decompress(data)
