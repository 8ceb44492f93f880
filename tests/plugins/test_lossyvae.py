"""Hierarchical VAEs: contracts of small ones, tiles, exact numbers, bytes, pictures drawn from the prior."""

from __future__ import annotations

from decimal import Decimal, localcontext
from math import cos, sin
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import picture

from obverse.codec import Codec
from obverse.config import CodecConfig, load_config
from obverse.errors import ConfigError
from obverse.interfaces import Block, Coded, Condition, Encoder, Latents, Layout, Prior, Quantizer
from obverse.loop import Quantized, Sampling, run
from obverse.numerics import NATIVE, prepare
from obverse.pipeline import Pipeline, build
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse_lossyvae.bottom_up import BottomUp
from obverse_lossyvae.dhic import checked_points
from obverse_lossyvae.operating_points import LambdaEmbedding, cosine_and_sine, waves
from obverse_lossyvae.qres import to_finer
from obverse_lossyvae.top_down import per_level

QRES = {"widths": [8, 8, 16], "latents": [3, 2, 2], "blocks": [1, 2, 1], "kernels": [1, 3, 5]}
LADDER = {"widths": [8, 12], "latents": [3, 2], "blocks": [1, 2], "kernels": [1, 3]}
RATIOS = {"ratios": [2, 1.5]}
TOLD = {"lambdas": [16, 300], "embedding": 8}
FINE = {"fine_width": 6, "fine_blocks": 1, "fine_kernel": 3, "fine_ratio": 1.5}
BOTTOM_UP = {"widths": [6, 12, 8], "blocks": [1, 1, 1], "kernels": [3, 3, 1], "rates": [4, 2, 2]}
GAINS = {"widths": [6, 9], "latents": [3, 2]}
POINTS = {"points": [1, 4], "table": 5}

CODECS: dict[str, dict[str, Any]] = {
    "qres": {
        "encoder": {
            **{**BOTTOM_UP, "widths": [16, 8, 8]}, "last_width": 16, "last_latents": 2, "last_kernel": 5,
            "last_block": 3,
        },
        "quantizer": QRES,
        "prior": {**QRES, "ups": ["repeat-2", "deconvolution-3"]},
    },
    "qres-lossless": {
        "encoder": {**BOTTOM_UP, "widths": [16, 8, 8], "last_block": 4},
        "quantizer": QRES,
        "prior": {**QRES, "lossless": True},
    },
    "qarv": {
        "encoder": {
            **BOTTOM_UP, "last_width": 12, "last_latents": 2, "last_kernel": 3, "last_ratio": 1.5, "last_block": 2,
            **FINE, **TOLD,
        },
        "quantizer": {**LADDER, "embedding": 8},
        "prior": {**LADDER, **RATIOS, **TOLD},
    },
    "dhvc-intra": {
        "encoder": {
            **BOTTOM_UP, **FINE, "latents": [3, 2], "level_widths": [8, 12], "level_blocks": [1, 1],
            "level_kernels": [1, 3], "level_ratios": [2, 1.5],
        },
        "quantizer": {**LADDER, "blocks": [1, 1]},
        "prior": {**LADDER, "blocks": [1, 1], **RATIOS, "temporal": 4},
    },
    "dhic": {
        "encoder": {
            "widths": [7, 8], "blocks": [1, 1], "stem_blocks": 0, "level_widths": [6, 9], "latents": [3, 2],
            "before": [1, 1], "after": [0, 1], **POINTS,
        },
        "quantizer": GAINS,
        "prior": {**GAINS, "before": [0, 1], "after": [1], **POINTS},
    },
}  # fmt: skip
"""Arguments of small codecs."""


def config(name: str) -> CodecConfig:
    parts = {part: {"name": name, **sizes} for part, sizes in CODECS[name].items()}
    if name == "qres-lossless":
        parts["quantizer"]["name"] = parts["prior"]["name"] = "qres"
    return CodecConfig(f"small-{name}", parts | {"coder": {"name": "range"}})


def pipeline(name: str) -> Pipeline:
    """Random weights, the same every time, with posteriors that differ from the prior's means by some steps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build(config(name))
        with torch.no_grad():
            for part in built.modules.values():
                for key, parameter in part.named_parameters():
                    if (parameter.ndim == 4 and len(parameter) == 1) or "log_" in key:  # constants that begin at zero
                        parameter.normal_(std=0.3)
            for posterior in built.quantizer.posteriors:  # type: ignore[attr-defined]
                for layer in [layer for layer in posterior.modules() if isinstance(layer, nn.Conv2d)][-1:]:
                    layer.weight *= 20
    return built


@pytest.fixture(params=CODECS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class OfModel:
    """A contract for the model `name`."""

    name: str

    def pipeline(self) -> Pipeline:
        return pipeline(self.name)


class Encoders(OfModel, EncoderContract):
    def make(self) -> Encoder:
        return self.pipeline().encoder

    def dequantized(self, latents: Latents) -> Latents:
        """What the quantizer would hand over: latents and views of the prior, made from the features."""
        quantizer = self.pipeline().quantizer
        found: dict[str, Tensor] = {}
        prior = CODECS[self.name]["prior"]
        counts = prior.get("blocks", [1] * len(prior["latents"]))
        index = 0
        for level, (source, count) in enumerate(zip(quantizer.channels, counts, strict=True)):
            for _ in range(count):
                array = latents[source].mean(1, keepdim=True)
                found[f"z{index}"] = array.repeat(1, prior["latents"][level], 1, 1)
                for kept in ("feature", "temporal"):
                    found[f"z{index}.{kept}"] = array.repeat(1, prior["widths"][level], 1, 1)
                index += 1
        return found


class TestQResEncoder(Encoders):
    name = "qres"


class TestQARVEncoder(Encoders):
    name = "qarv"


class TestIntraEncoder(Encoders):
    name = "dhvc-intra"


class TestDHICEncoder(Encoders):
    name = "dhic"


class Priors(OfModel, PriorContract):
    def make(self) -> Prior:
        return self.pipeline().prior

    def layouts(self) -> list[Layout]:
        return [Layout(2, 4, 4)]


class TestQResPrior(Priors):
    name = "qres"


class TestLosslessPrior(Priors):
    name = "qres-lossless"


class TestQARVPrior(Priors):
    name = "qarv"


class TestIntraPrior(Priors):
    name = "dhvc-intra"


class TestDHICPrior(Priors):
    name = "dhic"


class Quantizers(OfModel, QuantizerContract):
    idempotent = False  # the posterior sees features, not latents

    def make(self) -> Quantizer:
        return self.pipeline().quantizer

    def layout(self) -> Layout:
        return Layout(2, 8, 12)

    def latents(self) -> Latents:
        parts, generator = self.pipeline(), torch.Generator().manual_seed(0)
        images = torch.rand(2, 3, 8 * parts.encoder.stride, 12 * parts.encoder.stride, generator=generator)
        with torch.no_grad():
            return parts.encoder.encode(images, Condition())

    def blocks(self, latents: Latents) -> list[Block]:
        prior = prepare(self.pipeline().prior, NATIVE)
        found: list[Block] = []
        source = Quantized(self.quantizer(), latents)

        def watched(block: Block) -> Tensor:
            found.append(block)
            return source(block)

        with torch.no_grad():
            run(prior.blocks(self.layout(), Condition()), watched)
        return found

    def test_dequantized_latents_fit_the_encoder(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        with torch.no_grad():
            values = quantizer.dequantize(self.coded(quantizer, latents), self.layout())
            decoded = self.pipeline().encoder.decode(values, Condition())
        stride = self.pipeline().encoder.stride
        assert decoded.shape == (2, 3, 8 * stride, 12 * stride)
        assert all(array.dtype == torch.float32 for array in values.values())


class TestQResQuantizer(Quantizers):
    name = "qres"


class TestQARVQuantizer(Quantizers):
    name = "qarv"


class TestIntraQuantizer(Quantizers):
    name = "dhvc-intra"


class TestDHICQuantizer(Quantizers):
    name = "dhic"


def test_bytes(name: str) -> None:
    codec = Codec(config(name), pipeline(name))
    assert codec.numerics == "exact"
    for quality in range(1, codec.qualities + 1):
        check_roundtrip(codec, picture(37, 21), quality=quality)


def test_lossless() -> None:
    codec = Codec(config("qres-lossless"), pipeline("qres-lossless"))
    pixels = np.random.default_rng(0).integers(0, 256, (21, 37, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(codec.decompress(codec.compress(pixels))), pixels)


def test_operating_points_differ(name: str) -> None:
    codec = Codec(config(name), pipeline(name))
    streams = [codec.compress(picture(32, 32), quality=quality + 1) for quality in range(codec.qualities)]
    assert len(set(streams)) == codec.qualities == (2 if name in ("qarv", "dhic") else 1)


@pytest.mark.parametrize("numerics", ["guarded64", "native"])
def test_other_numerics(name: str, numerics: str) -> None:
    codec = Codec(config(name), pipeline(name), numerics=numerics)
    data = codec.compress(picture(32, 32), verify=True)
    assert codec.decompress(data).size == (32, 32)


def test_temperature_zero_is_the_mean(name: str) -> None:
    codec = Codec(config(name), pipeline(name))
    first, second = (codec.generate(size=(32, 32), temperature=0, seed=seed)[0] for seed in (1, 2))
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert not np.array_equal(np.asarray(first), np.asarray(codec.generate(size=(32, 32), seed=1)[0]))


def test_every_level_tells_about_the_next(name: str) -> None:
    prior = prepare(pipeline(name).prior)

    def means(first: int) -> list[Tensor]:
        count = 0

        def source(block: Block) -> Tensor:
            nonlocal count
            count += 1
            return torch.full(block.distribution.shape, first if count == 1 else 0)

        with torch.no_grad():
            return [part.context["mean"] for part in run(prior.blocks(Layout(1, 4, 4), Condition()), source)]

    ours, others = means(0), means(1)
    assert torch.equal(ours[0], others[0])
    assert not any(torch.equal(a, b) for a, b in zip(ours[1:], others[1:], strict=True))


def test_grids_that_cannot_be_halved_are_refused(name: str) -> None:
    prior = prepare(pipeline(name).prior)
    with pytest.raises(ConfigError, match="a latent grid of 3x4 cells has no grid"):
        run(prior.blocks(Layout(1, 3, 4), Condition()), Sampling(torch.Generator()))


def test_steps_scale_latents() -> None:
    quantizer = pipeline("dhic").quantizer
    symbols, mean = torch.tensor([[[[2, -1]]]]), torch.full((1, 1, 1, 2), 0.25)
    context = {"mean": mean, "step": torch.full((1, 1, 1, 1), 4.0), "feature": mean}
    values = quantizer.dequantize([Coded("z0", symbols, context=context)], Layout(1, 1, 2))
    assert values["z0"].flatten().tolist() == [9.0, -3.0]


@pytest.mark.parametrize("angle", ["0", "0.3", "-7.5", "63.99"])
def test_cosines_and_sines(angle: str) -> None:
    with localcontext(prec=60):
        cosine, sine = cosine_and_sine(Decimal(angle))
        assert abs(cosine * cosine + sine * sine - 1) < Decimal("1e-28")
    assert abs(float(cosine) - cos(float(angle))) < 1e-14
    assert abs(float(sine) - sin(float(angle))) < 1e-14


def test_waves() -> None:
    table = waves((8192.0, 1.0), 6)
    assert table.shape == (2, 6)
    angles = [64.0, 8.0, 1.0]  # 64 times frequencies 1, 1 / 8, 1 / 64
    expected = [*(cos(angle) for angle in angles), *(sin(angle) for angle in angles)]
    torch.testing.assert_close(table[0].double(), torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)
    assert table[1].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("lambdas", [[], [0, 1], [2, 1], [1, 1]])
def test_lambdas_are_checked(lambdas: list[float]) -> None:
    with pytest.raises(ConfigError, match="are not positive and rising"):
        LambdaEmbedding(lambdas, 8)


@pytest.mark.parametrize("length", [2, 7])
def test_length_of_embeddings_is_checked(length: int) -> None:
    with pytest.raises(ConfigError, match="even length"):
        LambdaEmbedding([1], length)


@pytest.mark.parametrize("points", [[], [3, 2], [-1, 2], [0, 5]])
def test_points_are_checked(points: list[int]) -> None:
    with pytest.raises(ConfigError, match="rising numbers from 0 to 4"):
        checked_points(points, 5)


@pytest.mark.parametrize("kind", ["shuffle", "repeat-0", "jump-2", "repeat-2"])
def test_ways_between_grids_are_checked(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"no way '{kind}' from 4 to 6 channels"):
        to_finer(kind, 4, 6)


@pytest.mark.parametrize(("kind", "rate"), [("shuffle-4", 4), ("repeat-3", 3), ("deconvolution-5", 2)])
def test_ways_between_grids(kind: str, rate: int) -> None:
    layer, told = to_finer(kind, 4, 4)
    assert told == rate
    assert layer(torch.zeros(1, 4, 2, 3)).shape == (1, 4, 2 * rate, 3 * rate)


def test_sizes_are_compared() -> None:
    with pytest.raises(ConfigError, match=r"widths \[1, 2\], latents \[3\]"):
        per_level(widths=[1, 2], latents=[3])
    with pytest.raises(ConfigError, match="one entry for each grid"):
        BottomUp(widths=[4], blocks=[1, 2], kernels=[1], rates=[4])
    with pytest.raises(ConfigError, match="3 grids have 2 ways"):
        build(config_with("qres", "prior", ups=["shuffle-2"]))


def config_with(name: str, part: str, **changes: Any) -> CodecConfig:
    base = config(name)
    return CodecConfig(base.name, {**base.parts, part: {**base.parts[part], **changes}})


def test_families() -> None:
    assert [load_config("qres34m", quality=q).weights[0].file for q in (1, 8)] == [  # type: ignore[union-attr]
        "qres34m/qres34m-lmb16.pt",
        "qres34m/qres34m-lmb2048.pt",
    ]
    assert load_config("qres17m").qualities == 8


@pytest.mark.parametrize(("codec", "millions"), [("qres34m", 34.0), ("qres17m", 16.7), ("qarv", 93.4), ("dhic", 222.7)])
def test_sizes_of_named_codecs(codec: str, millions: float) -> None:
    with torch.device("meta"):
        parts = build(load_config(codec)).modules.values()
    count = sum(parameter.numel() for part in parts for parameter in nn.Module.parameters(part))
    assert count / 1e6 == pytest.approx(millions, rel=0.003)
