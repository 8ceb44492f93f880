"""Encoders, priors and files of the models of CompressAI's zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toys import picture

from obverse.checkpoints import recognised, translated
from obverse.codec import Codec
from obverse.compressai import current, current_name, gdn
from obverse.config import CodecConfig, load_config
from obverse.errors import ConfigError, WeightsError
from obverse.hyperprior import FactorizedPrior
from obverse.interfaces import Encoder, Layout, Prior
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, check_roundtrip
from obverse_hyperprior.encoders import (
    FactorizedAutoencoder,
    MeanScaleAutoencoder,
    ResidualAutoencoder,
    ScaleAutoencoder,
)
from obverse_hyperprior.priors import JointPrior, MeanScaleHyperprior, ResidualPrior, ScaleHyperprior

SMALL = {"width": 3, "latent_channels": 5}


def seeded(module: nn.Module, gain: float) -> Any:
    return fill(module, "hyperprior", gain)


def lively(module: nn.Module) -> Any:
    """Weights as torch draws them, always the same, and large enough for far cells to be felt."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                inputs = layer.weight.numel() / layer.out_channels
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / inputs**0.5)
    return module


class TestFactorizedAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return lively(FactorizedAutoencoder(**SMALL))


class TestScaleAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return lively(ScaleAutoencoder(**SMALL))


class TestMeanScaleAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return lively(MeanScaleAutoencoder(**SMALL))


class TestResidualAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return lively(ResidualAutoencoder(width=4, attention=False))


class TestAttentionAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return lively(ResidualAutoencoder(width=4, attention=True))


class Hyperpriors(PriorContract):
    def layouts(self) -> list[Layout]:
        return [Layout(1, 4, 4), Layout(2, 4, 8)]


class TestFactorizedPrior(Hyperpriors):
    def make(self) -> Prior:
        return seeded(FactorizedPrior(latent_channels=5), 1.5)


class TestScaleHyperprior(Hyperpriors):
    def make(self) -> Prior:
        return seeded(ScaleHyperprior(**SMALL), 3)


class TestMeanScaleHyperprior(Hyperpriors):
    def make(self) -> Prior:
        return seeded(MeanScaleHyperprior(**SMALL), 3)


class TestJointPrior(Hyperpriors):
    def make(self) -> Prior:
        return seeded(JointPrior(**SMALL), 0.7)


class TestResidualPrior(Hyperpriors):
    def make(self) -> Prior:
        return seeded(ResidualPrior(width=4), 0.7)


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bmshj2018-factorized": (SMALL, {"latent_channels": 5}),
    "bmshj2018-hyperprior": (SMALL, SMALL),
    "mbt2018": (SMALL, SMALL),
    "cheng2020": ({"width": 4, "attention": True}, {"width": 4}),
}


@pytest.mark.parametrize("name", PARTS)
def test_round_trip(name: str) -> None:
    encoder, prior = PARTS[name]
    parts = {
        "encoder": {"name": name, **encoder},
        "quantizer": {"name": "rounding"},
        "prior": {"name": name, **prior},
        "coder": {"name": "range"},
    }
    config = CodecConfig(f"small-{name}", parts)
    pipeline = build(config)
    lively(pipeline.modules["encoder"])
    seeded(pipeline.modules["prior"], 0.7)
    check_roundtrip(Codec(config, pipeline), picture(70, 30))


def test_sizes_of_a_quality() -> None:
    small, large = (load_config("mbt2018-mean-ms-ssim", quality=quality) for quality in (4, 5))
    assert small.parts["encoder"] == {"name": "mbt2018", "width": 128, "latent_channels": 192}
    assert str(small.source).partition("-ms-ssim-")[2][0] == "4"
    assert large.parts["prior"] == {"name": "mbt2018-mean", "width": 192, "latent_channels": 320}


def test_qualities_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="quality 7 does not exist"):
        load_config("cheng2020-attn", quality=7)


def test_attention_is_the_only_difference_of_the_two_cheng_codecs() -> None:
    anchor, attention = load_config("cheng2020-anchor"), load_config("cheng2020-attn")
    assert {**anchor.parts["encoder"], "attention": True} == attention.parts["encoder"]
    assert anchor.parts["prior"] == attention.parts["prior"]


class TestFormats:
    NAMES = ("g_a.0.weight", "g_s.0.weight", "entropy_bottleneck.quantiles", "entropy_bottleneck._matrix0")

    def kind(self, *names: str) -> str:
        component = recognised(Path("file.pth.tar"), dict.fromkeys(names, (1,)))
        assert component is not None
        return component.name

    def test_each_takes_its_own_files_alone(self) -> None:
        assert self.kind(*self.NAMES) == "compressai"
        assert self.kind(*(f"module.{name}" for name in self.NAMES)) == "compressai"
        assert self.kind(*self.NAMES, "h_s.0.bias", "gaussian_conditional._offset") == "compressai"
        assert self.kind(*self.NAMES, "Gain", "QuantABCD.0.weight", "h_a.0.bias") == "compressai-vbr"

    def test_other_networks_make_another_kind(self) -> None:
        with pytest.raises(WeightsError, match="of no installed format; nearest is 'compressai'"):
            self.kind(*self.NAMES, "lrp_transforms.0.0.weight")

    def test_files_without_medians_are_named(self) -> None:
        tensors = {name: torch.zeros(1) for name in self.NAMES if "quantiles" not in name}
        with pytest.raises(WeightsError, match=r"lack 'entropy_bottleneck\.quantiles'"):
            translated(Path("file"), tensors)

    def test_unknown_tensors_are_kept_for_strict_loading(self) -> None:
        tensors = {name: torch.zeros(2, 1, 3) for name in (*self.NAMES, "h_a.0.other")}
        assert "encoder.hyper_analysis.0.other" in translated(Path("file"), tensors)

    def test_pointwise_convolutions_become_perceptrons(self) -> None:
        tensors = {name: torch.zeros(2, 1, 3) for name in self.NAMES}
        ours = translated(Path("file"), {**tensors, "entropy_parameters.0.weight": torch.zeros(4, 6, 1, 1)})
        assert ours["prior.entropy_parameters.0.weight"].shape == (4, 6)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("module.g_a.0.downsample.weight", "g_a.0.skip.weight"),
            ("entropy_bottleneck._matrices.3", "entropy_bottleneck.matrices.3"),
            ("entropy_bottleneck._bias2", "entropy_bottleneck.biases.2"),
            ("entropy_bottleneck._factor0", "entropy_bottleneck.factors.0"),
            ("g_a.0.weight", "g_a.0.weight"),
        ],
    )
    def test_names_of_older_versions(self, old: str, new: str) -> None:
        assert current_name(old) == new

    def test_tables_and_constants_are_left_out(self) -> None:
        names = (
            "gaussian_conditional.scale_table", "gaussian_conditional.lower_bound_scale.bound",
            "entropy_bottleneck._quantized_cdf", "entropy_bottleneck.target", "g_a.1.beta_reparam.pedestal",
            "g_a.1.gamma_reparam.lower_bound.bound",
        )  # fmt: skip
        assert current(dict.fromkeys(names, torch.zeros(1))) == {}

    def test_raw_parameters_of_gdn_are_roots(self) -> None:
        raw = torch.tensor([-1.0, 0.0, 2.0])
        found = gdn({"g_a.1.beta": raw, "g_a.1.gamma": raw, "g_a.0.bias": raw})
        torch.testing.assert_close(found["g_a.1.beta"], torch.tensor([1e-6, 1e-6, 4.0]))
        torch.testing.assert_close(found["g_a.1.gamma"], torch.tensor([0.0, 0.0, 4.0]), atol=1e-12, rtol=1e-6)
        assert torch.equal(found["g_a.0.bias"], raw)
