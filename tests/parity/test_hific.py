"""HiFiC against the PyTorch port: both transforms, both likelihoods, and the names of its releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from goldens import Golden, goldens, official_keys
from torch import Tensor
from toys import picture

from obverse.checkpoints import recognised
from obverse.codec import from_config
from obverse.coders.range import RangeCoder
from obverse.config import CodecConfig, load_config
from obverse.distributions import IntegerGaussian, IntegerLogistic
from obverse.hific import HificAutoencoder
from obverse.hyperprior import gaussian_likelihood, logistic_likelihood
from obverse.interfaces import Block, Coded, Condition, Layout
from obverse.loop import Decoding, Encoding, Quantized, run
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build_hollow
from obverse.scalar import RoundingQuantizer
from obverse.testing import check_roundtrip
from obverse_hific.checkpoints import HificFile
from obverse_hific.priors import HyperlatentPrior

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4  # of the fixtures' README: float32 sums in another order
GOLDENS = goldens("hific")
KEYS = official_keys("hific")


def close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=TOLERANCE, rtol=0)


def encoder_arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "widths": config["encoder_filters"],
        "residual_blocks": config["n_residual_blocks"],
        "latent_channels": config["latent_channels"],
        "hyper_channels": config["hyperlatent_filters"],
        "reflect": True,
        "signed": config["normalize_input_image"],
    }


def prior_arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "latent_channels": config["latent_channels"],
        "hyper_channels": config["hyperlatent_filters"],
        "likelihood": config["likelihood_type"],
    }


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Official:
    """The parts of a fixture in a numerics mode, and its numbers."""

    def __init__(self, golden: Golden, mode: str = NATIVE) -> None:
        self.config, self.io = golden.config, golden.tensors()
        if not self.config["use_channel_norm"] or self.config["sample_noise"]:
            pytest.skip("no release has instance normalisation or noise in its generator")
        tensors = HificFile().translate(golden.weights())
        self.encoder = HificAutoencoder(**encoder_arguments(self.config)).requires_grad_(False).eval()
        self.encoder.load_state_dict(part(tensors, "encoder."))
        prior = HyperlatentPrior(**prior_arguments(self.config)).requires_grad_(False).eval()
        prior.load_state_dict(part(tensors, "prior."))
        prepared = prepare(prior, mode)
        assert isinstance(prepared, HyperlatentPrior)
        self.prior = prepared
        self.quantizer = RoundingQuantizer(channels=self.encoder.channels, half_up=True)
        self.layout = Layout(self.io["y"].shape[0], *self.io["y"].shape[2:])

    @property
    def logistic(self) -> bool:
        return bool(self.config["likelihood_type"] == "logistic")

    def blocks(self) -> dict[str, tuple[Block, Coded]]:
        """Blocks by name, with the symbols of the official latents."""
        seen: list[Block] = []
        source = Quantized(self.quantizer, {"y": self.io["y"], "z": self.io["z"]})

        def watched(block: Block) -> Tensor:
            seen.append(block)
            return source(block)

        coded = run(self.prior.blocks(self.layout, Condition()), watched)
        return {block.name: (block, made) for block, made in zip(seen, coded, strict=True)}


def official_indices(scales: Tensor, table: np.ndarray) -> Tensor:
    above = scales.clamp(min=0.11)[..., None] <= torch.from_numpy(table[:-1])
    return len(table) - 1 - above.sum(-1)


@pytest.mark.parametrize("golden", GOLDENS)
class TestNumbers:
    def test_latents(self, golden: Golden) -> None:
        official = Official(golden)
        image = official.io["image"]
        right, bottom = -image.shape[3] % 16, -image.shape[2] % 16
        latents = official.encoder.encode(F.pad(image, (0, right, 0, bottom), mode="reflect"), Condition())
        height, width = official.io["y_unpadded"].shape[2:]
        close(latents["y"][:, :, :height, :width], official.io["y_unpadded"])
        close(latents["y"], official.io["y"])
        close(latents["z"], official.io["z"])

    def test_symbols_and_parameters(self, golden: Golden) -> None:
        official = Official(golden)
        (_, z), (y_block, y) = (official.blocks()[name] for name in "zy")
        values = official.quantizer.dequantize([z, y], official.layout)
        assert torch.equal(values["z"], official.io["z_hat"])
        close(y_block.context["scale"], official.io["scales"].clamp(min=0.11))
        close(y_block.context["mean"], official.io["means"])
        assert torch.equal(y.symbols, official.io["y_symbols"].long())
        close(values["y"], official.io["y_hat"])
        kind = IntegerLogistic if official.logistic else IntegerGaussian
        assert type(y_block.distribution) is kind
        table = np.load(golden.folder / "tables.npz")
        (scale_table,) = (table[name] for name in table.files if "scale_table" in name)
        indices = official_indices(y_block.context["scale"], scale_table)
        assert torch.equal(indices, official.io["y_indexes"].long())

    def test_likelihoods(self, golden: Golden) -> None:
        official = Official(golden)
        likelihood = logistic_likelihood if official.logistic else gaussian_likelihood
        y, context = official.blocks()["y"][1], official.blocks()["y"][0].context
        close(likelihood(y.symbols.float(), context["scale"]), official.io["likelihoods_y"])
        close(official.prior.density.likelihood(official.io["z_hat"]), official.io["likelihoods_z"])

    def test_pictures(self, golden: Golden) -> None:
        official = Official(golden)
        close(official.encoder.synthesis(official.io["y_hat"]), official.io["generator_out"])
        decoded = official.encoder.decode({"y": official.io["y_hat"]}, Condition()).clamp(0, 1)
        height, width = official.io["image"].shape[2:]
        for name in ("forward_x_hat", "vectorized_decompress_x_hat", "scalar_decompress_x_hat"):
            close(decoded[:, :, :height, :width], official.io[name].clamp(0, 1))

    @pytest.mark.parametrize("mode", [EXACT, NATIVE])
    def test_size_of_a_stream(self, golden: Golden, mode: str) -> None:
        official = Official(golden, mode)
        encoder = RangeCoder().encoder()
        source = Quantized(official.quantizer, {"y": official.io["y"], "z": official.io["z"]})
        coded = run(official.prior.blocks(official.layout, Condition()), Encoding(source, [encoder]))
        data = encoder.finish()
        bits = -sum(float(official.io[f"likelihoods_{name}"].double().log2().sum()) for name in "yz")
        # Likelihoods end at 1e-9; latents that are many scales away from their means cost less than that here.
        assert 0.8 * bits <= 8 * len(data) <= 1.003 * bits + 128
        decoded = run(official.prior.blocks(official.layout, Condition()), Decoding([RangeCoder().decoder(data)]))
        assert all(torch.equal(ours.symbols, theirs.symbols) for ours, theirs in zip(coded, decoded, strict=True))
        assert (
            coded[1].symbols != official.io["y_symbols"]
        ).double().mean() < 0.01  # ties that rounding the weights moved


@pytest.mark.parametrize("golden", GOLDENS)
def test_codec_with_an_official_file(golden: Golden, tmp_path: Path) -> None:
    config = golden.config
    file = tmp_path / "hific.pt"
    state = golden.weights() | {"Discriminator.conv1.bias": torch.zeros(4)}
    training = {"args": {"likelihood_type": config["likelihood_type"]}, "epoch": 3, "steps": 4}
    torch.save({"model_state_dict": state, "discriminator_state_dict": {"bias": torch.zeros(1)}, **training}, file)
    parts = {
        "encoder": {"name": "hific", **encoder_arguments(config)},
        "quantizer": {"name": "rounding", "half_up": True},
        "prior": {"name": "hific", **prior_arguments(config)},
        "coder": {"name": "range"},
    }
    codec = from_config(CodecConfig("official", parts, (file,)))
    assert codec.numerics == EXACT
    check_roundtrip(codec, picture(100, 70))


@pytest.mark.skipif(not KEYS, reason="no list of official keys (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("release", KEYS)
def test_every_tensor_of_a_release_has_its_place(release: str) -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in KEYS[release].items()}
    component = recognised(Path("file.pt"), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert component is not None
    assert component.name == "hific"
    pipeline = build_hollow(load_config("hific"))
    translated = {key: tuple(tensor.shape) for key, tensor in HificFile().translate(tensors).items()}
    assert translated == {
        f"{prefix}.{key}": tuple(tensor.shape)
        for prefix, module in pipeline.modules.items()
        for key, tensor in module.state_dict().items()
    }
