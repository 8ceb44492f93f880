"""HiFiC and its parts, small and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import picture

from obverse.codec import Codec
from obverse.config import CodecConfig, load_config
from obverse.distributions import IntegerGaussian, IntegerLogistic
from obverse.errors import ConfigError, WeightsError
from obverse.hific import HificAutoencoder
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.nn.channel_norm import ChannelNorm
from obverse.pipeline import build, build_hollow
from obverse.scalar import RoundingQuantizer
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.weights import load_weights
from obverse_hific.checkpoints import HificFile
from obverse_hific.priors import LIKELIHOODS, HyperlatentPrior

LATENTS = {"latent_channels": 5, "hyper_channels": 4}
ENCODER: dict[str, Any] = {"widths": [4, 5, 6, 7, 8], "residual_blocks": 2, **LATENTS, "reflect": True, "signed": True}


class TestAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        torch.manual_seed(0)
        return HificAutoencoder(**ENCODER)


class TestAutoencoderInUnitRange(EncoderContract):
    def make(self) -> Encoder:
        torch.manual_seed(0)
        return HificAutoencoder(**{**ENCODER, "signed": False, "residual_blocks": 9})


class TestQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return RoundingQuantizer(channels={"y": 5}, half_up=True)


class TestGaussianPrior(PriorContract):
    def make(self) -> Prior:
        return fill(HyperlatentPrior(**LATENTS), "hific")


class TestLogisticPrior(PriorContract):
    def make(self) -> Prior:
        return fill(HyperlatentPrior(**LATENTS, likelihood="logistic"), "hific")


def test_the_likelihood_decides_the_tables() -> None:
    kinds = {"gaussian": IntegerGaussian, "logistic": IntegerLogistic}
    assert kinds.keys() == set(LIKELIHOODS)
    for likelihood, kind in kinds.items():
        prior = fill(HyperlatentPrior(**LATENTS, likelihood=likelihood), "hific")
        prior.numerics = "native"
        blocks = prior.blocks(Layout(1, 4, 4), Condition())
        z = next(blocks)
        assert type(blocks.send(torch.zeros(z.distribution.shape, dtype=torch.int64)).distribution) is kind


def test_unknown_likelihoods_are_refused() -> None:
    with pytest.raises(ConfigError, match="likelihood is one of gaussian, logistic, not 'laplace'"):
        HyperlatentPrior(**LATENTS, likelihood="laplace")


def test_channel_norm() -> None:
    norm = fill(ChannelNorm(6), "norm")
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    pixel = x[1, :, 2, 3]
    variance = ((pixel - pixel.mean()) ** 2).sum() / 5
    expected = norm.gamma[0, :, 0, 0] * (pixel - pixel.mean()) / (variance + 1e-3).sqrt() + norm.beta[0, :, 0, 0]
    torch.testing.assert_close(norm(x)[1, :, 2, 3], expected)


@pytest.mark.parametrize("size", [(80, 112), (16, 16), (64, 144)])
def test_latents_of_other_sizes_are_those_of_the_next_multiple(size: tuple[int, int]) -> None:
    encoder = fill(HificAutoencoder(**ENCODER), "hific")
    latents = encoder.encode(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)), Condition())
    cells = tuple(-(-side // 64) for side in size)
    assert latents["y"].shape[2:] == tuple(4 * side for side in cells)
    assert latents["z"].shape[2:] == cells


def test_pictures_are_signed_inside() -> None:
    signed, plain = (fill(HificAutoencoder(**{**ENCODER, "signed": signed}), "hific") for signed in (True, False))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    inside = plain.encode(images * 2 - 1, Condition())
    latents = signed.encode(images, Condition())
    assert all(torch.equal(latents[name], inside[name]) for name in "yz")
    decoded = plain.decode(latents, Condition())
    assert torch.equal(signed.decode(latents, Condition()), (decoded.tanh() + 1) / 2)


def codec(likelihood: str) -> Codec:
    parts = {
        "encoder": {"name": "hific", **ENCODER},
        "quantizer": {"name": "rounding", "half_up": True},
        "prior": {"name": "hific", **LATENTS, "likelihood": likelihood},
        "coder": {"name": "range"},
    }
    config = CodecConfig("small", parts)
    pipeline = build(config)
    for prefix, module in pipeline.modules.items():
        fill(module, prefix)
    return Codec(config, pipeline)


@pytest.mark.parametrize("size", [(64, 64), (131, 70), (5, 1)])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_round_trip(likelihood: str, size: tuple[int, int]) -> None:
    made = codec(likelihood)
    assert made.numerics == "exact"
    assert made.decompress(check_roundtrip(made, picture(*size))).size == size


@pytest.mark.parametrize(("quality", "likelihood", "signed"), [(1, "gaussian", True), (2, "logistic", False)])
def test_releases_differ_in_more_than_their_weights(quality: int, likelihood: str, signed: bool) -> None:
    pipeline = build_hollow(load_config("hific", quality=quality))
    assert isinstance(pipeline.prior, HyperlatentPrior)
    assert isinstance(pipeline.encoder, HificAutoencoder)
    assert isinstance(pipeline.quantizer, RoundingQuantizer)
    assert (pipeline.prior.likelihood, pipeline.encoder.signed) == (likelihood, signed)
    assert pipeline.quantizer.half_up
    assert load_config("hific", quality=quality).qualities == 3


DENSITY = "Hyperprior.hyperlatent_likelihood."
NAMES = {
    "Encoder.conv_block1.1.weight": "encoder.analysis.stages.0.1.weight",
    "Encoder.conv_block5.2.gamma": "encoder.analysis.stages.4.2.gamma",
    "Encoder.conv_block_out.1.bias": "encoder.analysis.last.1.bias",
    "Generator.conv_block_init.0.gamma": "encoder.synthesis.head.0.gamma",
    "Generator.conv_block_init.2.weight": "encoder.synthesis.head.2.weight",
    "Generator.resblock_8.norm2.beta": "encoder.synthesis.blocks.8.norm2.beta",
    "Generator.upconv_block4.1.beta": "encoder.synthesis.doubling.3.1.beta",
    "Generator.conv_block_out.1.weight": "encoder.synthesis.last.1.weight",
    "Hyperprior.analysis_net.conv1.weight": "encoder.hyper_analysis.0.weight",
    "Hyperprior.analysis_net.conv3.bias": "encoder.hyper_analysis.4.1.bias",
    "Hyperprior.synthesis_mu.conv1.weight": "prior.mean.0.weight",
    "Hyperprior.synthesis_std.conv2.weight": "prior.scale.2.weight",
    f"{DENSITY}H_0": "prior.density.matrices.0",
    f"{DENSITY}a_3": "prior.density.factors.3",
    f"{DENSITY}b_1": "prior.density.biases.1",
}
LEFT_OUT = [
    "Discriminator.conv1.weight_orig",
    "Hyperprior.hyperprior_entropy_model.distribution.H_0",
    "Hyperprior.hyperprior_entropy_model.CDF",
    "Hyperprior.prior_entropy_model.scale_table_tensor",
]


class TestCheckpoint:
    def test_names(self) -> None:
        tensors = {name: torch.full((2,), float(i)) for i, name in enumerate([*NAMES, *LEFT_OUT])}
        translated = HificFile().translate(tensors)
        assert translated.pop("prior.density.medians").tolist() == [0, 0]
        assert translated == {ours: tensors[theirs] for theirs, ours in NAMES.items()}

    def test_the_last_kernel_is_turned_round(self) -> None:
        """A transposed convolution as a convolution."""
        official = torch.nn.ConvTranspose2d(4, 5, 3, padding=1)
        tensors = {
            "Hyperprior.synthesis_mu.conv3.weight": official.weight.detach(),
            f"{DENSITY}H_0": torch.zeros(4, 3, 1),
        }
        ours = torch.nn.Conv2d(4, 5, 3, padding=1)
        ours.load_state_dict(
            {"weight": HificFile().translate(tensors)["prior.mean.4.weight"], "bias": official.bias.detach()}
        )
        x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours(x), official(x))

    def test_a_missing_density_is_named(self) -> None:
        tensors = dict.fromkeys(set(NAMES) - {f"{DENSITY}H_0"}, torch.zeros(2))
        with pytest.raises(KeyError, match="H_0"):
            HificFile().translate(tensors)

    def test_unknown_tensors_stay_for_strict_loading_to_name(self) -> None:
        translated = HificFile().translate({f"{DENSITY}H_0": torch.zeros(2), "Encoder.other": torch.zeros(1)})
        assert "encoder.Encoder.other" in translated

    def test_files_of_other_sizes_are_refused(self, tmp_path: Path) -> None:
        torch.save({"model_state_dict": dict.fromkeys(NAMES, torch.zeros(2))}, tmp_path / "hific.pt")
        with pytest.raises(WeightsError, match="weights of the encoder do not fit"):
            load_weights([tmp_path / "hific.pt"], codec("gaussian").pipeline.modules)
