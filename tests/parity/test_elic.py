"""ELIC against its reimplementations: CompressAI's two classes, VincentChandelier's and JiangWeibeta's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import ROOT, Golden, official_keys
from safetensors.torch import load_file
from torch import Tensor

from obverse.checkpoints import recognised, translated
from obverse.codec import Codec, from_config
from obverse.coders.ideal import IdealEncoder
from obverse.config import CodecConfig, load_config
from obverse.hyperprior import gaussian_likelihood
from obverse.interfaces import Block, Coded, Condition, Layout, Prior
from obverse.loop import Quantized, Source, run
from obverse.numerics import EXACT, NATIVE
from obverse.pipeline import build_hollow
from obverse.testing import check_roundtrip

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
VARIANTS = {
    "compressai-official": ("elic", "elic-compressai"),
    "compressai-chandelier": ("elic-chandelier", "elic-compressai"),
    "chandelier-original": ("elic-chandelier", "elic-chandelier"),
    "jiang": ("elic-jiang", "elic-jiang"),
}
"""Named codec with the architecture of a variant, and the format of its files."""

RELEASES = {
    "chandelier_N192_M320": "chandelier-original",
    "compressai_Elic2022Chandelier_N192_M320": "compressai-chandelier",
    "compressai_Elic2022Official_N192_M320": "compressai-official",
    "jiang_N192_M320": "jiang",
}


def folders() -> list[Any]:
    """Every fixture of a variant that is known here."""
    found = [Golden(path.parent) for path in sorted((ROOT / "elic").glob("**/config.json"))]
    found = [golden for golden in found if golden.config.get("variant") in VARIANTS]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no fixtures under {ROOT / 'elic'}"), id="none")]
    return [pytest.param(golden, id=golden.folder.name) for golden in found]


def close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=TOLERANCE, rtol=TOLERANCE)


def config_of(golden: Golden) -> CodecConfig:
    """The named codec of the fixture's variant, at the fixture's sizes."""
    sizes, shrunk = golden.config["constructor"], golden.config.get("shrunk_hidden_widths", {})
    n, m = sizes["N"], sizes["M"]
    variant = golden.config["variant"]
    hyper = {"compressai-official": [n, n * 3 // 2, 2 * n], "jiang": [m, m * 3 // 2, 2 * m]}
    named = load_config(VARIANTS[variant][0])
    prior = {
        **named.parts["prior"],
        "hyper_channels": n,
        "hyper_widths": hyper.get(variant, [n, n * 3 // 2, 2 * m]),
        "groups": sizes["groups"],
    }
    if "channel_context_hidden" in shrunk:
        prior["context_widths"] = shrunk["channel_context_hidden"]
    if "param_aggregation_hidden" in shrunk:
        prior["parameter_widths"] = shrunk["param_aggregation_hidden"]
    encoder = {"name": "elic", "width": n, "latent_channels": m}
    parts = {**named.parts, "encoder": encoder, "prior": prior}
    return CodecConfig("official", parts, (golden.folder / "weights.safetensors",))


class Model:
    """A fixture's codec, its numbers, and ours of the same picture."""

    def __init__(self, golden: Golden, mode: str) -> None:
        self.io, self.config = golden.tensors(), golden.config
        self.codec: Codec = from_config(config_of(golden), numerics=mode)
        (image,) = load_file(golden.folder / self.config["image"]).values()
        self.image = image
        self.latents = self.codec.pipeline.encoder.encode(image, Condition())
        height, width = (side // self.codec.pipeline.encoder.stride for side in image.shape[2:])
        self.layout = Layout(len(image), height, width)
        self.coded = self.run(Quantized(self.codec.pipeline.quantizer, self.latents))
        self.values = self.codec.pipeline.quantizer.dequantize(self.coded, self.layout)

    @property
    def prior(self) -> Prior:
        return self.codec.pipeline.prior

    def run(self, source: Source) -> list[Coded]:
        return run(self.prior.blocks(self.layout, Condition()), source)

    def passes(self) -> list[Coded]:
        """The blocks of y: two for every group."""
        return [part for part in self.coded if part.name == "y"]

    def scales(self) -> list[Tensor]:
        """Of every pass, [B, g, h, w / 2] as the official code packs them."""
        groups = self.config["constructor"]["groups"]
        rows = self.layout.height
        passes = zip(self.passes(), [size for size in groups for _ in range(2)], strict=True)
        return [part.context["scale"].view(self.layout.batch, size, rows, -1) for part, size in passes]

    def official_scales(self) -> list[Tensor]:
        return [self.io[f"scales_{i}"].clamp(min=0.11) for i in range(len(self.passes()))]


def official_index(scale: Tensor) -> Tensor:
    """Table of CompressAI for a scale: of the first 63 of its 64 scales, the smallest that is not below."""
    table = torch.exp(torch.linspace(torch.tensor(0.11).log(), torch.tensor(256.0).log(), 64))
    return 63 - (scale.clamp(min=0.11)[..., None] <= table[:63]).sum(-1)


@pytest.fixture(scope="module", params=folders())
def golden(request: pytest.FixtureRequest) -> Golden:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(golden: Golden) -> Model:
    with torch.inference_mode():
        return Model(golden, NATIVE)


def test_is_recognised(golden: Golden) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in golden.weights().items()}
    component = recognised(Path("file.pth"), shapes)
    assert component is not None
    assert component.name == VARIANTS[golden.config["variant"]][1]


def test_latents(model: Model) -> None:
    close(model.latents["y"], model.io["y"])
    close(model.latents["z"], model.io["z"])
    close(model.values["z"], model.io["z_hat"])


@torch.inference_mode()
def test_hyper_synthesis(model: Model) -> None:
    close(model.prior.hyper_synthesis(model.io["z_hat"]), model.io["h_s_out"])


def test_symbols(model: Model) -> None:
    ours = [part.symbols.flatten() for part in model.coded]
    official = [model.io[f"coded_{i}_symbols"] for i in range(len(model.config["coder_calls"]))]
    if len(official) < len(ours):  # one string for all of y
        ours = [ours[0], torch.cat(ours[1:])]
    assert [part.tolist() for part in ours] == [part.tolist() for part in official]


def test_scales_and_tables(model: Model) -> None:
    official = [model.io[f"coded_{i}_indexes"] for i in range(1, len(model.config["coder_calls"]))]
    for ours, theirs in zip(model.scales(), model.official_scales(), strict=True):
        close(ours, theirs)
    indexes = torch.cat([official_index(scale).flatten() for scale in model.scales()])
    assert torch.equal(indexes, torch.cat(official).long())


def test_y_is_restored(model: Model) -> None:
    close(model.values["y"], model.io["forward_y_hat"])
    close(model.values["y"], model.io["decompress_y_hat"])


@torch.inference_mode()
def test_picture(model: Model) -> None:
    ours = model.codec.pipeline.encoder.decode(model.values, Condition())
    close(ours, model.io["forward_x_hat"])
    close(ours.clamp(0, 1), model.io["decompress_x_hat"].clamp(0, 1))  # one of the four does not clamp


@torch.inference_mode()
def test_likelihoods(model: Model) -> None:
    close(model.prior.density.likelihood(model.values["z"]), model.io["likelihoods_z"])
    official = model.io["likelihoods_y"].flatten(1)
    for part in model.passes():
        # Symbols are whole: y_hat - mean is the symbol.
        ours = gaussian_likelihood(part.symbols.float(), part.context["scale"])
        close(ours, official[:, part.positions])


@torch.inference_mode()
def test_exact_codec(golden: Golden) -> None:
    exact = Model(golden, EXACT)
    for ours, theirs in zip(exact.scales(), exact.official_scales(), strict=True):
        assert float(((ours - theirs).abs() / theirs).max()) < 0.02
    picture = (exact.image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    check_roundtrip(exact.codec, picture)


@torch.inference_mode()
def test_exact_rate_is_the_official_estimate(golden: Golden) -> None:
    model = Model(golden, EXACT)
    encoder, official = IdealEncoder(), 0.0

    def count(block: Block) -> Tensor:
        nonlocal official
        symbols = Quantized(model.codec.pipeline.quantizer, model.latents)(block)
        likelihoods = model.io[f"likelihoods_{block.name}"].flatten(1)
        if block.positions is not None:
            likelihoods = likelihoods[:, block.positions]
        encoder.put(symbols, block.distribution)
        official -= float(likelihoods.double().log2().sum())
        return symbols

    model.run(count)
    # Likelihoods end at 1e-9; symbols of random weights that are far from their means cost less than that here.
    assert 0.7 * official <= encoder.bits <= 1.003 * official + 128


@pytest.mark.skipif(not official_keys("elic"), reason="no list of official keys (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("release", official_keys("elic"))
def test_every_tensor_of_a_release_has_its_place(release: str) -> None:
    codec, kind = VARIANTS[RELEASES[release]]
    with torch.device("meta"):
        tensors = {
            key: torch.empty([1 if side is None else side for side in shape])
            for key, (shape, _) in official_keys("elic")[release].items()
        }
    component = recognised(Path("file"), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert component is not None
    assert component.name == kind
    found = translated(Path("file"), tensors)
    pipeline = build_hollow(load_config(codec))
    ours = {
        f"{part}.{key}": tensor.shape
        for part, module in pipeline.modules.items()
        for key, tensor in module.state_dict().items()
    }
    assert {key: tensor.shape for key, tensor in found.items()} == ours


@pytest.mark.skipif(not (ROOT / "elic" / "releases.json").is_file(), reason="no list of releases")
def test_every_release_is_a_quality() -> None:
    releases = json.loads((ROOT / "elic" / "releases.json").read_text(encoding="utf-8"))["releases"]
    assert load_config("elic-chandelier").qualities == len(releases)
