"""MS-ILLM and its parts, small and untrained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import picture

from obverse.codec import Codec
from obverse.config import CodecConfig, load_config
from obverse.hific import HificAutoencoder
from obverse.interfaces import Encoder, Prior
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, check_roundtrip
from obverse_msillm.checkpoints import MsillmFile
from obverse_msillm.plugin import obverse_components
from obverse_msillm.priors import MeanScalePrior

LATENTS = {"latent_channels": 5, "hyper_channels": 4}
ENCODER: dict[str, Any] = {"widths": [4, 5, 6, 7, 8], "residual_blocks": 2, **LATENTS}
QUALITIES = {"msillm": 6, "msillm-vlo": 2, "noganms": 6}


class TestAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        torch.manual_seed(0)
        return HificAutoencoder(**ENCODER)


class TestPrior(PriorContract):
    def make(self) -> Prior:
        return fill(MeanScalePrior(**LATENTS), "msillm")


@pytest.mark.parametrize("size", [(64, 64), (131, 70), (5, 1)])
def test_round_trip(size: tuple[int, int]) -> None:
    parts = {
        "encoder": {"name": "msillm", **ENCODER},
        "quantizer": {"name": "rounding"},
        "prior": {"name": "msillm", **LATENTS},
        "coder": {"name": "range"},
    }
    config = CodecConfig("small", parts)
    pipeline = build(config)
    for prefix, module in pipeline.modules.items():
        fill(module, prefix)
    codec = Codec(config, pipeline)
    assert codec.numerics == "exact"
    assert codec.decompress(check_roundtrip(codec, picture(*size))).size == size


def test_every_codec_tells_its_licence_and_files() -> None:
    codecs = {component.name: component for component in obverse_components() if component.kind == "codec"}
    assert codecs.keys() == QUALITIES.keys()
    for name, count in QUALITIES.items():
        assert codecs[name].licence == "CC-BY-NC-4.0"
        sources = [load_config(name, quality=quality).source for quality in range(1, count + 1)]
        rates = [float(str(source).rpartition("_")[2].removesuffix("bpp.ckpt")) for source in sources]
        assert rates == sorted(rates)
        assert load_config(name).qualities == count


NAMES = {
    "encoder.blocks.0.0.weight": "encoder.analysis.stages.0.1.weight",
    "encoder.blocks.4.1.gamma": "encoder.analysis.stages.4.2.gamma",
    "encoder.blocks.5.weight": "encoder.analysis.last.1.weight",
    "decoder.block_0.0.gamma": "encoder.synthesis.head.0.gamma",
    "decoder.block_0.1.bias": "encoder.synthesis.head.2.bias",
    "decoder.block_0.2.beta": "encoder.synthesis.head.3.beta",
    "decoder.resid_blocks.8.sequence.0.weight": "encoder.synthesis.blocks.8.conv1.weight",
    "decoder.resid_blocks.8.sequence.4.beta": "encoder.synthesis.blocks.8.norm2.beta",
    "decoder.blocks.3.1.gamma": "encoder.synthesis.doubling.3.1.gamma",
    "decoder.blocks.4.bias": "encoder.synthesis.last.1.bias",
    "hyper_analysis.0.weight": "encoder.hyper_analysis.0.weight",
    "hyper_analysis.4.bias": "encoder.hyper_analysis.4.1.bias",
    "hyper_synthesis_mean.0.weight": "prior.mean.0.weight",
    "hyper_synthesis_scale.4.bias": "prior.scale.4.bias",
    "hyper_bottleneck._matrix0": "prior.density.matrices.0",
    "hyper_bottleneck.biases.4": "prior.density.biases.4",
}
LEFT_OUT = ["latent_bottleneck.scale_table", "hyper_bottleneck._quantized_cdf", "hyper_bottleneck.target"]


class TestCheckpoint:
    def test_names(self) -> None:
        tensors = {name: torch.full((2,), float(i)) for i, name in enumerate([*NAMES, *LEFT_OUT])}
        quantiles = torch.tensor([[[-5.0, 0.5, 5.0]], [[-4.0, -0.25, 3.0]]])
        translated = MsillmFile().translate(tensors | {"hyper_bottleneck.quantiles": quantiles})
        assert translated.pop("prior.density.medians").tolist() == [0.5, -0.25]
        assert translated == {ours: tensors[theirs] for theirs, ours in NAMES.items()}

    def test_missing_quantiles_are_named(self) -> None:
        with pytest.raises(KeyError, match=r"hyper_bottleneck\.quantiles"):
            MsillmFile().translate(dict.fromkeys(NAMES, torch.zeros(2)))
