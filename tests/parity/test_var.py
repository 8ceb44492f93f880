"""VAR against the official code: tokenizer, transformer with both kinds of AdaLN, guidance, names of releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from goldens import Golden, goldens, official_keys
from torch import Tensor, nn
from toys import picture

from obverse.checkpoints import recognised
from obverse.codec import from_config
from obverse.config import CodecConfig, load_config
from obverse.interfaces import Coded, Condition, Layout
from obverse.loop import Known, run
from obverse.next_scale import NextScalePrior, scale_spans
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build
from obverse.testing import check_roundtrip
from obverse_var.checkpoints import TokenizerFormat, TransformerFormat
from obverse_var.encoders import TileAutoencoder
from obverse_var.quantizers import MultiScaleQuantizer

pytestmark = pytest.mark.parity

TOLERANCE = 2e-4
EXACT_TOLERANCE = 0.05
TOKENIZERS = goldens("var", "models.vqvae.VQVAE")
PRIORS = goldens("var", "models.var.VAR")
RELEASES = [key for key in official_keys("var") if key.startswith("var_")]


def close(ours: Tensor, official: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=tolerance, rtol=tolerance)


def kind(tensors: dict[str, Tensor]) -> str:
    """Name of the only installed format that recognises a file."""
    component = recognised(Path("file.pth"), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert component is not None
    return component.name


def load(part: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    part.load_state_dict(own, strict=True)
    part.requires_grad_(False).eval()


def scale_sum(golden: Golden) -> dict[str, Any]:
    """What quantizer and prior are told of the tokenizer."""
    sizes = golden.config["VQVAE"]
    return {"sides": sizes["v_patch_nums"], "phis": sizes["share_quant_resi"], "ratio": sizes["quant_resi"]}


def encoder_arguments(golden: Golden) -> dict[str, Any]:
    sizes, overrides = golden.config["VQVAE"], golden.config.get("Encoder_Decoder_overrides", {})
    multipliers = overrides.get("ch_mult", (1, 1, 2, 2, 4))
    return {
        "tile": sizes["v_patch_nums"][-1] * 2 ** (len(multipliers) - 1),
        "embed_dim": sizes["z_channels"],
        "z_channels": sizes["z_channels"],
        "width": sizes["ch"],
        "multipliers": multipliers,
        "blocks": overrides.get("num_res_blocks", 2),
        "attention_levels": [len(multipliers) - 1],
        "projection": sizes["quant_conv_ks"],
    }


def quantizer_arguments(golden: Golden) -> dict[str, Any]:
    sizes = golden.config["VQVAE"]
    return {"size": sizes["vocab_size"], "dim": sizes["z_channels"], **scale_sum(golden)}


def prior_arguments(golden: Golden) -> dict[str, Any]:
    """For a fixture of the transformer."""
    sizes, codes = golden.config["VAR"], tokenizer_of(golden).config["VQVAE"]
    return {
        **scale_sum(tokenizer_of(golden)),
        "sides": sizes["patch_nums"],
        "vocabulary": codes["vocab_size"],
        "channels": codes["z_channels"],
        "dim": sizes["embed_dim"],
        "layers": sizes["depth"],
        "heads": sizes["num_heads"],
        "classes": sizes["num_classes"],
        "shared": sizes["shared_aln"],
        "mlp_ratio": sizes["mlp_ratio"],
    }


def tokenizer_of(golden: Golden) -> Golden:
    """The fixture whose quantizer a transformer was made with."""
    return Golden((golden.folder / golden.config["tokenizer"].split()[0]).resolve())


class Tokenizer:
    """Encoder and quantizer of a fixture, and its numbers."""

    def __init__(self, golden: Golden) -> None:
        self.sides, self.io = golden.config["VQVAE"]["v_patch_nums"], golden.tensors()
        self.encoder = TileAutoencoder(**encoder_arguments(golden))
        self.quantizer = MultiScaleQuantizer(**quantizer_arguments(golden))
        tensors = TokenizerFormat().translate(golden.weights())
        load(self.encoder, "encoder.", tensors)
        load(self.quantizer, "quantizer.", tensors)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pictures in [-1, 1], not clamped, from tokens scale by scale."""
        coded = [
            Coded("tokens", tokens[:, first:stop], torch.arange(first, stop)) for first, stop in scale_spans(self.sides)
        ]
        latents = self.quantizer.dequantize(coded, Layout(len(tokens), self.sides[-1], self.sides[-1]))
        return self.encoder.decode(latents, Condition()) * 2 - 1


@pytest.mark.parametrize("golden", TOKENIZERS)
class TestTokenizer:
    def test_is_recognised(self, golden: Golden) -> None:
        assert kind(golden.weights()) == "var-tokenizer"

    def test_latents_and_indices(self, golden: Golden) -> None:
        tokenizer = Tokenizer(golden)
        latents = tokenizer.encoder.encode((tokenizer.io["image"] + 1) / 2, Condition())
        close(latents["tokens"], tokenizer.io["prequant"])
        assert torch.equal(tokenizer.quantizer.symbols(latents)["tokens"], tokenizer.io["indices"])

    def test_latents_scale_by_scale(self, golden: Golden) -> None:
        tokenizer = Tokenizer(golden)
        found = tokenizer.quantizer.f_hat(tokenizer.io["indices"])
        assert len(found) == len(tokenizer.sides)
        for scale, ours in enumerate(found):
            close(ours, tokenizer.io[f"f_hat_{scale}"])
            close(ours, tokenizer.io[f"f_hat_from_codes_{scale}"])

    def test_inputs_of_the_transformer(self, golden: Golden) -> None:
        io, sizes = Tokenizer(golden).io, golden.config["VQVAE"]
        prior = NextScalePrior(
            vocabulary=sizes["vocab_size"], channels=sizes["z_channels"], dim=1, layers=0, heads=1, classes=1,
            **scale_sum(golden),
        )  # fmt: skip
        load(prior.scales, "prior.scales.", TokenizerFormat().translate(golden.weights()))
        side = prior.sides[-1]
        maps = prior.features(io["indices"], Layout(len(io["indices"]), side, side), len(prior.sides))
        close(torch.cat(list(maps), dim=1), io["var_input"])

    def test_pictures(self, golden: Golden) -> None:
        tokenizer = Tokenizer(golden)
        ours = tokenizer.decode(tokenizer.io["indices"])
        close(ours, tokenizer.io["recon_unclamped"])
        close(ours.clamp(-1, 1), tokenizer.io["recon"])
        close(ours.clamp(-1, 1), tokenizer.io["recon_from_image"])


class Transformer:
    """The prior of a fixture in a numerics mode, and its numbers."""

    def __init__(self, golden: Golden, mode: str = NATIVE) -> None:
        self.io, self.guidance = golden.tensors(), golden.config["cfg"]
        self.tokenizer = tokenizer_of(golden)
        prior = NextScalePrior(**prior_arguments(golden))
        tensors = TokenizerFormat().translate(self.tokenizer.weights())
        load(prior, "prior.", tensors | TransformerFormat().translate(golden.weights()))
        prepared = prepare(prior, mode)
        assert isinstance(prepared, NextScalePrior)
        self.prior = prepared

    def layout(self, batch: int) -> Layout:
        return Layout(batch, self.prior.sides[-1], self.prior.sides[-1])

    @torch.inference_mode()
    def logits(self, condition: Condition, rows: slice = slice(None), *, cached: bool) -> Tensor:
        """Of rows of the fixture's tokens: scale by scale with caches, or in one pass."""
        prior, symbols = self.prior, {"tokens": self.io["tokens"][rows]}
        layout = self.layout(len(symbols["tokens"]))
        blocks = prior.blocks(layout, condition) if cached else prior.teacher_forced(symbols, layout, condition)
        with patch.object(prior, "categorical", side_effect=prior.categorical) as calls:
            run(blocks, Known(symbols))
        return torch.cat([call.args[0] for call in calls.call_args_list], dim=1)

    def by_class(self, *, cached: bool, guidance: float | None = None) -> Tensor:
        """Logits of every row with the class that the fixture has for it."""
        labels = self.io["class_ids"].tolist()
        rows = [
            self.logits(Condition(label=label, guidance=guidance), slice(index, index + 1), cached=cached)
            for index, label in enumerate(labels)
        ]
        return torch.cat(rows)


@pytest.mark.parametrize("golden", PRIORS)
class TestTransformer:
    def test_is_recognised(self, golden: Golden) -> None:
        assert kind(golden.weights()) == "var-transformer"

    def test_inputs(self, golden: Golden) -> None:
        model = Transformer(golden)
        tokens = model.io["tokens"]
        maps = model.prior.features(tokens, model.layout(len(tokens)), len(model.prior.sides))
        close(torch.cat(list(maps), dim=1), model.io["var_input"])

    @pytest.mark.parametrize("cached", [False, True])
    def test_logits(self, golden: Golden, cached: bool) -> None:
        model, suffix = Transformer(golden), "_kv" if cached else ""
        close(model.by_class(cached=cached), model.io[f"logits_cond{suffix}"])
        close(model.logits(Condition(), cached=cached), model.io[f"logits_uncond{suffix}"])

    @pytest.mark.parametrize("cached", [False, True])
    def test_guided_logits(self, golden: Golden, cached: bool) -> None:
        model = Transformer(golden)
        close(model.by_class(cached=cached, guidance=model.guidance), model.io["logits_cfg_kv"])
        close(model.by_class(cached=cached, guidance=0.0), model.io["logits_cond_kv"])

    def test_picture(self, golden: Golden) -> None:
        model = Transformer(golden)
        pictures = Tokenizer(model.tokenizer).decode(model.io["tokens"]).clamp(-1, 1)
        close((pictures + 1) / 2, model.io["image_01"])

    @pytest.mark.parametrize("cached", [False, True])
    def test_exact_logits_are_near(self, golden: Golden, cached: bool) -> None:
        model = Transformer(golden, EXACT)
        close(model.by_class(cached=cached), model.io["logits_cond"], EXACT_TOLERANCE)
        close(model.logits(Condition(), cached=cached), model.io["logits_uncond"], EXACT_TOLERANCE)
        guided = model.by_class(cached=cached, guidance=model.guidance)
        close(guided, model.io["logits_cfg_kv"], (1 + 2 * model.guidance) * EXACT_TOLERANCE)


@pytest.mark.parametrize("golden", PRIORS)
def test_codec_with_official_files(golden: Golden) -> None:
    parts = {
        "encoder": {"name": "var", **encoder_arguments(tokenizer_of(golden))},
        "quantizer": {"name": "var", **quantizer_arguments(tokenizer_of(golden))},
        "prior": {"name": "var", **prior_arguments(golden)},
        "coder": {"name": "range"},
    }
    files = tuple(fixture.folder / "weights.safetensors" for fixture in (tokenizer_of(golden), golden))
    codec = from_config(CodecConfig("official", parts, files))
    tile = parts["encoder"]["tile"]
    check_roundtrip(codec, picture(2 * tile - 1, tile // 2))


@pytest.mark.skipif(not RELEASES, reason="no list of official keys (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("release", RELEASES)
def test_every_tensor_of_a_release_has_its_place(release: str) -> None:
    keys = official_keys("var")
    (tokenizer_release,) = keys.keys() - set(RELEASES)
    with torch.device("meta"):
        pipeline = build(load_config(release.replace("_", "-")))
        tokenizer, transformer = (
            {key: torch.empty(shape) for key, (shape, _) in keys[name].items()} for name in (tokenizer_release, release)
        )
    assert [kind(tokenizer), kind(transformer)] == ["var-tokenizer", "var-transformer"]
    translated = TokenizerFormat().translate(tokenizer) | TransformerFormat().translate(transformer)
    ours = {
        f"{part}.{key}": tensor.shape
        for part, module in pipeline.modules.items()
        for key, tensor in module.state_dict().items()
    }
    assert {key: tensor.shape for key, tensor in translated.items()} == ours
