"""MS-ILLM against NeuralCompression: transforms, hyperprior, and the names of its releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import Golden, goldens, official_keys
from safetensors.torch import save_file
from torch import Tensor
from toys import picture

from obverse.checkpoints import recognised
from obverse.codec import from_config
from obverse.coders.range import RangeCoder
from obverse.config import CodecConfig, load_config
from obverse.hific import HificAutoencoder
from obverse.hyperprior import gaussian_likelihood
from obverse.interfaces import Block, Coded, Condition, Layout
from obverse.loop import Decoding, Encoding, Quantized, run
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build_hollow
from obverse.scalar import RoundingQuantizer
from obverse.testing import check_roundtrip
from obverse_msillm.checkpoints import MsillmFile
from obverse_msillm.plugin import obverse_components
from obverse_msillm.priors import MeanScalePrior

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4  # of the fixtures' README: float32 sums in another order
GOLDENS = goldens("msillm")
KEYS = official_keys("msillm")
CODECS = [component.name for component in obverse_components() if component.kind == "codec"]


def close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=TOLERANCE, rtol=0)


def encoder_arguments(config: dict[str, Any]) -> dict[str, Any]:
    sizes = config["constructor"]
    return {
        "widths": config["encoder_filters"],
        "residual_blocks": sizes["num_residual_blocks"],
        "latent_channels": sizes["latent_features"],
        "hyper_channels": sizes["hyper_features"],
    }


def prior_arguments(config: dict[str, Any]) -> dict[str, Any]:
    sizes = config["constructor"]
    return {"latent_channels": sizes["latent_features"], "hyper_channels": sizes["hyper_features"]}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Official:
    """The parts of a fixture in a numerics mode, and its numbers."""

    def __init__(self, golden: Golden, mode: str = NATIVE) -> None:
        config, self.io = golden.config, golden.tensors()
        tensors = MsillmFile().translate(golden.weights())
        self.scale_table = golden.weights()["latent_bottleneck.scale_table"]
        self.encoder = HificAutoencoder(**encoder_arguments(config)).requires_grad_(False).eval()
        self.encoder.load_state_dict(part(tensors, "encoder."))
        prior = MeanScalePrior(**prior_arguments(config)).requires_grad_(False).eval()
        prior.load_state_dict(part(tensors, "prior."))
        prepared = prepare(prior, mode)
        assert isinstance(prepared, MeanScalePrior)
        self.prior = prepared
        self.quantizer = RoundingQuantizer(channels=self.encoder.channels)
        self.layout = Layout(self.io["y"].shape[0], *self.io["y"].shape[2:])
        self.source = Quantized(self.quantizer, {"y": self.io["y"], "z": self.io["z"]})

    def blocks(self) -> dict[str, tuple[Block, Coded]]:
        """Blocks by name, with the symbols of the official latents."""
        seen: list[Block] = []

        def watched(block: Block) -> Tensor:
            seen.append(block)
            return self.source(block)

        coded = run(self.prior.blocks(self.layout, Condition()), watched)
        return {block.name: (block, made) for block, made in zip(seen, coded, strict=True)}


@pytest.mark.parametrize("golden", GOLDENS)
class TestNumbers:
    def test_latents(self, golden: Golden) -> None:
        official = Official(golden)
        latents = official.encoder.encode(official.io["image_padded"], Condition())
        close(latents["y"], official.io["y"])
        close(latents["z"], official.io["z"])

    def test_symbols_and_parameters(self, golden: Golden) -> None:
        official = Official(golden)
        (_, z), (y_block, y) = (official.blocks()[name] for name in "zy")
        values = official.quantizer.dequantize([z, y], official.layout)
        close(values["z"], official.io["z_hat"])
        scale = y_block.context["scale"]
        close(scale, official.io["scales"].clamp(min=0.11))
        close(y_block.context["mean"], official.io["means"])
        close(values["y"], official.io["forward_y_hat"])
        assert torch.equal(z.symbols.flatten(), official.io["coded_z_symbols"].long())
        assert torch.equal(y.symbols.flatten(), official.io["coded_y_symbols"].long())
        table = official.scale_table
        indices = len(table) - 1 - (scale[..., None] <= table[:-1]).sum(-1)
        assert torch.equal(indices.flatten(), official.io["coded_y_indexes"].long())

    def test_likelihoods(self, golden: Golden) -> None:
        official = Official(golden)
        block, y = official.blocks()["y"]
        close(gaussian_likelihood(y.symbols.float(), block.context["scale"]), official.io["likelihoods_y"])
        close(official.prior.density.likelihood(official.io["z_hat"]), official.io["likelihoods_z"])

    def test_pictures(self, golden: Golden) -> None:
        official = Official(golden)
        decoded = official.encoder.decode({"y": official.io["forward_y_hat"]}, Condition())
        close(decoded, official.io["forward_x_hat"])
        height, width = official.io["image"].shape[2:]
        close(decoded[:, :, :height, :width].clamp(0, 1), official.io["decompress_x_hat"])

    @pytest.mark.parametrize("mode", [EXACT, NATIVE])
    def test_size_of_a_stream(self, golden: Golden, mode: str) -> None:
        official = Official(golden, mode)
        encoder = RangeCoder().encoder()
        coded = run(official.prior.blocks(official.layout, Condition()), Encoding(official.source, [encoder]))
        data = encoder.finish()
        bits = -sum(float(official.io[f"likelihoods_{name}"].double().log2().sum()) for name in "yz")
        # Likelihoods end at 1e-9; latents that are many scales away from their means cost less than that here.
        assert 0.8 * bits <= 8 * len(data) <= 1.003 * bits + 128
        decoded = run(official.prior.blocks(official.layout, Condition()), Decoding([RangeCoder().decoder(data)]))
        assert all(torch.equal(ours.symbols, theirs.symbols) for ours, theirs in zip(coded, decoded, strict=True))


def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that CompressAI had when the releases were made."""
    names = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}

    def old(name: str) -> str:
        for new, before in names.items():
            name = name.replace(f"hyper_bottleneck.{new}.", f"hyper_bottleneck.{before}")
        return name

    return {old(name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("golden", GOLDENS)
@pytest.mark.parametrize("names", [dict, older])
def test_codec_with_an_official_file(golden: Golden, names: Any, tmp_path: Path) -> None:
    save_file(names(golden.weights()), tmp_path / "msillm.safetensors")
    parts = {
        "encoder": {"name": "msillm", **encoder_arguments(golden.config)},
        "quantizer": {"name": "rounding"},
        "prior": {"name": "msillm", **prior_arguments(golden.config)},
        "coder": {"name": "range"},
    }
    codec = from_config(CodecConfig("official", parts, (tmp_path / "msillm.safetensors",)))
    assert codec.numerics == EXACT
    check_roundtrip(codec, picture(100, 70))


@pytest.mark.skipif(not KEYS, reason="no list of official keys (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("names", [dict, older])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("release", KEYS)
def test_every_tensor_of_a_release_has_its_place(release: str, codec: str, names: Any) -> None:
    tensors = names(
        {key: torch.empty([size or 7 for size in shape], device="meta") for key, (shape, _) in KEYS[release].items()}
    )
    component = recognised(Path("file.ckpt"), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert component is not None
    assert component.name == "msillm"
    pipeline = build_hollow(load_config(codec))
    translated = {key: tuple(tensor.shape) for key, tensor in MsillmFile().translate(tensors).items()}
    assert translated == {
        f"{prefix}.{key}": tuple(tensor.shape)
        for prefix, module in pipeline.modules.items()
        for key, tensor in module.state_dict().items()
    }
