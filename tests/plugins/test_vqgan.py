"""VQGAN and its parts, small and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from toys import picture

import obverse
from obverse.codec import Codec
from obverse.config import PARTS, CodecConfig, load_config
from obverse.errors import ConfigError
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.minimal_gpt import MinimalGPT
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.taming import TokenizerFile
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse.weights import write_tensors
from obverse_vqgan.checkpoints import Net2NetFile, TransformerFile
from obverse_vqgan.plugin import obverse_components
from obverse_vqgan.quantizers import GumbelQuantizer

CODECS = [component.name for component in obverse_components() if component.kind == "codec"]
ENCODER: dict[str, Any] = {
    "embed_dim": 6,
    "z_channels": 5,
    "width": 32,
    "multipliers": [1, 2, 2],
    "blocks": 1,
    "attention_levels": [2],
}
PRIOR: dict[str, Any] = {"vocabulary": 19, "dim": 24, "layers": 2, "heads": 3, "window": 4}


class TestAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return fill(VQAutoencoder(**ENCODER), "vqgan")


class TestVectorQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return fill(VectorQuantizer(size=50, dim=6), "vqgan")


class TestGumbelQuantizer(QuantizerContract):
    idempotent = False  # codes are not the centres of what is projected to them

    def make(self) -> Quantizer:
        return fill(GumbelQuantizer(size=50, dim=6), "gumbel")


def test_candidates_of_the_gumbel_quantizer_lie_around_the_code_of_the_mode() -> None:
    quantizer = fill(GumbelQuantizer(size=50, dim=6), "gumbel").requires_grad_(False)
    with torch.no_grad():
        quantizer.embed.weight[7:9] = quantizer.embed.weight[3]  # codes that are equal
    quantizer.proj.bias.data[7] = 1e3
    latents = {"tokens": torch.randn(1, 6, 2, 2, generator=torch.Generator().manual_seed(0))}
    tokens, distances = quantizer.candidates(latents, 4)["tokens"]
    assert tokens[..., 0].eq(7).all()
    assert tokens[..., 1:3].sort().values.eq(torch.tensor([3, 8])).all()
    codes = quantizer.embed.weight
    torch.testing.assert_close(distances, (codes[tokens] - codes[7]).square().sum(-1), rtol=1e-4, atol=1e-4)


class TestPrior(PriorContract):
    def make(self) -> Prior:
        return fill(MinimalGPT(**PRIOR), "gpt", gain=2.0)


class TestClassConditionalPrior(PriorContract):
    def make(self) -> Prior:
        return fill(MinimalGPT(**PRIOR, classes=7), "gpt", gain=2.0)

    def conditions(self) -> list[Condition]:
        return [Condition(label=0), Condition(label=6)]


def logits(prior: MinimalGPT, tokens: Tensor, layout: Layout, condition: Condition) -> Tensor:
    """What the entropy coder's integers are made of, [B, T, V]."""
    prior.numerics = "native"
    blocks = prior.teacher_forced({"tokens": tokens}, layout, condition)
    return torch.cat([block.distribution.logits for block in blocks], dim=1)  # type: ignore[attr-defined]


def test_a_class_is_a_first_token() -> None:
    tokens, layout = torch.arange(32).view(2, 16) % 19, Layout(2, 4, 4)
    conditional = fill(MinimalGPT(**PRIOR, classes=7), "gpt")
    start = fill(MinimalGPT(**PRIOR, start=5), "gpt")
    found = logits(conditional, tokens, layout, Condition(label=5))
    assert torch.equal(found, logits(start, tokens, layout, Condition()))
    assert not torch.equal(found, logits(conditional, tokens, layout, Condition(label=4)))


def test_cells_of_a_smaller_window_keep_their_positions() -> None:
    """The second row of a window of one column stands where that of a whole one stands."""
    prior = fill(MinimalGPT(**PRIOR), "gpt")
    tokens, layout = torch.tensor([[1, 2]]), Layout(1, 2, 1)
    before = logits(prior, tokens, layout, Condition())
    with torch.no_grad():
        prior.pos_emb[:, 1] *= -9
        assert torch.equal(logits(prior, tokens, layout, Condition()), before)
        prior.pos_emb[:, 4] *= -9
    changed = logits(prior, tokens, layout, Condition()) != before
    assert changed.any(-1).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Condition(), "needs the class of the picture, 0 to 6, got none"),
        (Condition(label=3, guidance=2.0), "has no guidance"),
    ],
)
def test_conditions_that_the_model_was_not_trained_with_are_refused(condition: Condition, message: str) -> None:
    prior = MinimalGPT(**PRIOR, classes=7)
    with pytest.raises(ConfigError, match=message):
        next(prior.blocks(Layout(1, 2, 2), condition))
    with pytest.raises(ConfigError, match=message):
        next(prior.teacher_forced({"tokens": torch.zeros(1, 4, dtype=torch.int64)}, Layout(1, 2, 2), condition))


def test_classes_are_tokens() -> None:
    with pytest.raises(ConfigError, match="first tokens are from the same 19, got start 0 and 20 classes"):
        MinimalGPT(**PRIOR, classes=20)


def codec(folder: Path, quantizer: str, prior: dict[str, Any]) -> Codec:
    """A small codec whose weights are seeded."""
    body = {
        "name": "small",
        "encoder": {"name": "vqgan", **ENCODER},
        "quantizer": {"name": quantizer, "size": 19, "dim": 6},
        "prior": prior,
        "coder": {"name": "range"},
    }
    parts = {part: body[part] for part in PARTS}
    tensors = {
        f"{prefix}.{name}": value
        for prefix, module in build(CodecConfig("small", parts)).modules.items()  # type: ignore[arg-type]
        for name, value in fill(module, prefix).state_dict().items()
    }
    write_tensors(folder / "small.safetensors", tensors, {}, int8=False)
    path = folder / "small.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(body | {"weights": "small.safetensors"})), encoding="utf-8")
    return obverse.load(path)


@pytest.mark.parametrize("size", [(32, 32), (37, 21), (5, 3)])
@pytest.mark.parametrize("quantizer", ["vqgan", "vqgan-gumbel"])
def test_round_trip(tmp_path: Path, quantizer: str, size: tuple[int, int]) -> None:
    small = codec(tmp_path, quantizer, {"name": "vqgan-gpt", **PRIOR})
    assert small.decompress(check_roundtrip(small, picture(*size))).size == size


@pytest.mark.parametrize("quantizer", ["vqgan", "vqgan-gumbel"])
def test_rate_control(tmp_path: Path, quantizer: str) -> None:
    small, image = codec(tmp_path, quantizer, {"name": "vqgan-gpt", **PRIOR}), picture(64, 48)
    plain, cheap = (small.compress(image, rd_lambda=rd_lambda) for rd_lambda in (1e9, 0))
    assert plain == small.compress(image)
    assert len(cheap) < len(plain)
    limit = (len(plain) + len(cheap)) // 2
    assert len(small.compress(image, max_bytes=limit, verify=True)) <= limit


def test_a_codec_with_classes_refuses_pictures_without_one(tmp_path: Path) -> None:
    small = codec(tmp_path, "vqgan", {"name": "vqgan-gpt", **PRIOR, "classes": 7})
    assert small.decompress(small.compress(picture(32, 32), label=6)).size == (32, 32)
    with pytest.raises(ConfigError, match="needs the class of the picture"):
        small.compress(picture(32, 32))


@pytest.mark.parametrize("name", CODECS)
def test_named_codecs_are_whole(name: str) -> None:
    with torch.device("meta"):
        pipeline = build(load_config(name))
    prior = pipeline.prior
    assert pipeline.encoder.stride == (8 if "f8" in name else 16)
    assert prior.window == (16 if isinstance(prior, MinimalGPT) else None)
    assert prior.classes == (1000 if name == "vqgan-cin" else None)


TOKENIZER = {
    "encoder.down.0.block.0.conv1.weight": "encoder.encoder.down.0.block.0.conv1.weight",
    "decoder.up.0.block.0.conv1.weight": "encoder.decoder.up.0.block.0.conv1.weight",
    "quant_conv.weight": "encoder.quant_conv.weight",
    "post_quant_conv.bias": "encoder.post_quant_conv.bias",
    "quantize.embedding.weight": "quantizer.embedding.weight",
}
TRANSFORMER = {
    "tok_emb.weight": "prior.tok_emb.weight",
    "pos_emb": "prior.pos_emb",
    "blocks.0.attn.key.weight": "prior.blocks_.0.attn.key.weight",
    "blocks.11.mlp.2.bias": "prior.blocks_.11.mlp.2.bias",
    "head.weight": "prior.head.weight",
}


def below(prefix: str, names: dict[str, str]) -> dict[str, str]:
    return {prefix + theirs: ours for theirs, ours in names.items()}


class TestCheckpoints:
    FILES = {  # noqa: RUF012
        TokenizerFile: (TOKENIZER, ["loss.discriminator.main.0.weight", "model_ema.decay", "quantize.used"]),
        TransformerFile: (TRANSFORMER, ["blocks.0.attn.mask"]),
        Net2NetFile: (
            below("first_stage_model.", TOKENIZER) | below("transformer.", TRANSFORMER),
            [
                "first_stage_model.loss.logvar",
                "transformer.blocks.3.attn.mask",
                "cond_stage_model.quantize.embedding.weight",
            ],
        ),
    }

    @pytest.mark.parametrize("kind", FILES)
    def test_names(self, kind: type) -> None:
        names, left_out = self.FILES[kind]
        tensors = {name: torch.full((), float(i)) for i, name in enumerate([*names, *left_out])}
        assert kind().translate(tensors) == {ours: tensors[theirs] for theirs, ours in names.items()}

    @pytest.mark.parametrize("kind", FILES)
    def test_a_file_is_of_one_kind(self, kind: type) -> None:
        names, left_out = self.FILES[kind]
        shapes = dict.fromkeys([*names, *left_out], (1,))
        assert [other for other in self.FILES if other().recognises(shapes)] == [kind]

    @pytest.mark.parametrize("kind", FILES)
    def test_unknown_tensors_stay_for_strict_loading_to_name(self, kind: type) -> None:
        (left,) = kind().translate({"permuter.forward_shuffle_idx": torch.zeros(1)})
        assert left in ("encoder.permuter.forward_shuffle_idx", "prior.permuter.forward_shuffle_idx")

    @pytest.mark.parametrize("name", ["quantize.quant_resi.qresi_ls.0.weight", "quantize.codebook_used"])
    def test_relatives_of_the_tokenizer_are_other_kinds(self, name: str) -> None:
        assert not TokenizerFile().recognises(dict.fromkeys([*TOKENIZER, name], (1,)))
