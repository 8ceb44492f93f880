"""The models of CompressAI's zoo against the official code: latents, parameters, coded integers, pictures, releases."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import ROOT, Golden, official_keys
from safetensors.torch import load_file
from torch import Tensor

from obverse import container
from obverse.checkpoints import recognised, translated
from obverse.codec import Codec, from_config
from obverse.config import CodecConfig, load_config
from obverse.context import ContextPrior
from obverse.errors import WeightsError
from obverse.hyperprior import FactorizedPrior, Hyperprior, gaussian_likelihood
from obverse.interfaces import Coded, Condition, Layout
from obverse.loop import Quantized, run
from obverse.numerics import EXACT, NATIVE
from obverse.pipeline import build_hollow
from obverse.testing import check_roundtrip

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
OLD_NAMES = {
    r"\.matrices\.": "._matrix",
    r"\.biases\.": "._bias",
    r"\.factors\.": "._factor",
    r"\.skip\.": ".downsample.",
}
"""What the library called tensors before; taken from the code that loads old files."""


def arguments(architecture: str, width: int, latent_channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encoder and prior of an architecture."""
    if architecture.startswith("cheng2020"):
        attention = architecture == "cheng2020-attn"
        return {"name": "cheng2020", "width": width, "attention": attention}, {"name": "cheng2020", "width": width}
    sizes = {"width": width, "latent_channels": latent_channels}
    encoder = architecture if architecture.startswith("bmshj2018") else "mbt2018"
    prior = {"latent_channels": latent_channels} if architecture == "bmshj2018-factorized" else sizes
    return {"name": encoder, **sizes}, {"name": architecture, **prior}


def fixtures() -> list[Any]:
    """Every folder of a fixture; a parameter that skips where there is none."""
    folders = [path.parent for path in sorted((ROOT / "compressai").glob("**/config.json"))]
    if not folders:
        reason = f"no fixtures under {ROOT / 'compressai'} (set OBVERSE_GOLDENS)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(Golden(folder), id=folder.name) for folder in folders]


def kind(names: Any) -> str:
    """Name of the only installed format that recognises a file."""
    component = recognised(Path("file.pth.tar"), dict.fromkeys(names, (1,)))
    assert component is not None
    return component.name


def close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=TOLERANCE, rtol=0)


def official_index(scale: Tensor) -> Tensor:
    """The first entry of the official table that is at least the scale."""
    table = torch.exp(torch.linspace(np.log(0.11), np.log(256), 64))
    return 63 - (scale.clamp(min=0.11)[..., None] <= table[:-1]).sum(-1)


class Fixture:
    """A codec with a fixture's weights in mode native, the fixture's numbers, and what the codec makes of them."""

    def __init__(self, golden: Golden) -> None:
        self.folder, self.sizes = golden.folder, golden.config
        self.io = golden.tensors()
        self.image = load_file(golden.folder / self.sizes["image"])["image"]
        self.layout = Layout(*self.io["y"].shape[:1], *self.io["y"].shape[2:])
        self.codec = self.load(NATIVE)

    def load(self, numerics: str) -> Codec:
        constructor = self.sizes["constructor"]
        encoder, prior = arguments(self.sizes["architecture"], constructor["N"], constructor.get("M", constructor["N"]))
        parts = {"encoder": encoder, "quantizer": {"name": "rounding"}, "prior": prior, "coder": {"name": "range"}}
        config = CodecConfig(self.sizes["architecture"], parts, (self.folder / "weights.safetensors",))
        return from_config(config, numerics=numerics)

    @property
    def prior(self) -> Any:
        return self.codec.pipeline.prior

    @cached_property
    @torch.inference_mode()
    def coded(self) -> list[Coded]:
        """What the loop codes, from the official latents; cell by cell in raster order where there is a context."""
        if isinstance(self.prior, ContextPrior):
            self.prior.raster = True
        latents = {name: self.io[name] for name in ("y", "z") if name in self.io}
        return run(self.prior.blocks(self.layout, Condition()), Quantized(self.codec.pipeline.quantizer, latents))

    def of_y(self, part: str) -> Tensor:
        """Symbols of y, or their means or scales, in coding order [B, n]."""
        blocks = [block for block in self.coded if block.name == "y"]
        found = [block.symbols if part == "symbols" else block.context[part] for block in blocks]
        return torch.cat([value.flatten(1) for value in found], 1)

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of all symbols of y in raster order with all channels of a cell together -> [B, M, h, w]."""
        return values.view(self.layout.batch, self.layout.height, self.layout.width, -1).permute(0, 3, 1, 2)

    def hyper(self) -> tuple[Tensor, Tensor | None]:
        """What the prior makes of the official z_hat."""
        found: tuple[Tensor, Tensor | None] = self.prior.parameters_of(self.io["z_hat"])
        return found

    def estimated_bits(self) -> float:
        """The rate as papers report it, of the scales that the codec meets, unquantized."""
        likelihoods = [self.io["likelihoods_z"]] if "z" in self.io else [self.io["likelihoods_y"]]
        if "codec_scales" in self.io:
            likelihoods.append(gaussian_likelihood(self.of_y("symbols"), self.of_y("scale")))
        elif "z" in self.io:
            likelihoods.append(self.io["likelihoods_y"])
        return -sum(float(part.double().log2().sum()) for part in likelihoods)


@pytest.fixture(scope="module")
def loaded() -> dict[Path, Fixture]:
    return {}


@pytest.fixture
def fixture(golden: Golden, loaded: dict[Path, Fixture]) -> Fixture:
    if golden.folder not in loaded:
        loaded[golden.folder] = Fixture(golden)
    return loaded[golden.folder]


@pytest.mark.parametrize("golden", fixtures())
class TestModel:
    def test_old_names_give_the_same(self, golden: Golden) -> None:
        tensors, old = golden.weights(), {}
        for name, tensor in tensors.items():
            for pattern, replacement in OLD_NAMES.items():
                name = re.sub(pattern, replacement, name)
            old[f"module.{name}"] = tensor
        assert kind(tensors) == kind(old) == "compressai"
        ours, same = translated(Path("new"), tensors), translated(Path("old"), old)
        assert ours.keys() == same.keys()
        assert all(torch.equal(tensor, same[name]) for name, tensor in ours.items())

    @torch.inference_mode()
    def test_latents(self, fixture: Fixture) -> None:
        latents = fixture.codec.pipeline.encoder.encode(fixture.image, Condition())
        assert latents.keys() == {"y", "z"} & fixture.io.keys()
        for name, latent in latents.items():
            close(latent, fixture.io[name])

    @torch.inference_mode()
    def test_likelihoods_of_independent_latents(self, fixture: Fixture) -> None:
        name = "y" if isinstance(fixture.prior, FactorizedPrior) else "z"
        density = fixture.prior.density
        medians = density.medians[:, None, None]
        rounded = (fixture.io[name] - medians).round() + medians
        close(rounded, fixture.io["forward_y_hat" if name == "y" else "z_hat"])
        close(density.likelihood(rounded), fixture.io[f"likelihoods_{name}"])

    @torch.inference_mode()
    def test_parameters(self, fixture: Fixture) -> None:
        if not isinstance(fixture.prior, Hyperprior):
            pytest.skip("the factorized model has no scales or means of y")
        scale, mean = fixture.hyper()
        close(scale if mean is None else torch.cat([scale, mean], 1), fixture.io["h_s_out"])
        if isinstance(fixture.prior, ContextPrior):
            return
        close(scale, fixture.io["scales"])
        centred = fixture.io["y"].round()
        if mean is not None:
            close(mean, fixture.io["means"])
            centred = (fixture.io["y"] - mean).round()
        close(gaussian_likelihood(centred, scale.clamp(min=0.11)), fixture.io["likelihoods_y"])

    @torch.inference_mode()
    def test_parameters_with_context_of_any_values(self, fixture: Fixture) -> None:
        """The official forward pass puts round(y) where the codec has round(y - mean) + mean."""
        if not isinstance(fixture.prior, ContextPrior):
            pytest.skip("the model has no causal context")
        y, y_hat = fixture.io["y"], fixture.io["forward_y_hat"]
        assert torch.equal(y.round(), y_hat)
        cells = torch.cat([fixture.hyper()[0], fixture.prior.context_prediction(y_hat)], 1).permute(0, 2, 3, 1)
        scale, mean = fixture.prior.entropy_parameters(cells).permute(0, 3, 1, 2).chunk(2, 1)
        close(scale, fixture.io["forward_scales"])
        close(mean, fixture.io["forward_means"])
        likelihoods = gaussian_likelihood((y - mean).round(), scale.clamp(min=0.11))
        close(likelihoods, fixture.io["likelihoods_y"])

    def test_coded_integers(self, fixture: Fixture) -> None:
        io = fixture.io
        assert torch.equal(fixture.of_y("symbols").flatten().int(), io["coded_y_symbols"])
        independent = fixture.coded[0]
        channel = torch.arange(independent.symbols.shape[1])[:, None, None].expand_as(independent.symbols)
        assert torch.equal(channel.flatten().int(), io[f"coded_{independent.name}_indexes"])
        if independent.name == "z":
            assert torch.equal(independent.symbols.flatten().int(), io["coded_z_symbols"])
            assert torch.equal(official_index(fixture.of_y("scale")).flatten().int(), io["coded_y_indexes"])

    def test_scales_that_the_codec_meets(self, fixture: Fixture) -> None:
        if "codec_scales" not in fixture.io:
            pytest.skip("the model has no causal context")
        close(fixture.on_grid(fixture.of_y("scale")), fixture.io["codec_scales"].clamp(min=0.11))

    @torch.inference_mode()
    def test_pictures(self, fixture: Fixture) -> None:
        pipeline = fixture.codec.pipeline
        latents = pipeline.quantizer.dequantize(fixture.coded, fixture.layout)
        close(latents["y"], fixture.io["decompress_y_hat"])
        close(pipeline.encoder.decode(latents, Condition()).clamp(0, 1), fixture.io["decompress_x_hat"])
        close(pipeline.encoder.decode({"y": fixture.io["forward_y_hat"]}, Condition()), fixture.io["forward_x_hat"])

    def test_exact_streams_are_as_short_as_estimated(self, fixture: Fixture) -> None:
        codec = fixture.load(EXACT)
        for picture in fixture.image:
            data = check_roundtrip(codec, picture.permute(1, 2, 0).mul(255).round().byte().numpy())
        if len(fixture.image) == 1:
            bits = fixture.estimated_bits()
            payload = 8 * len(container.unpack(data).payload)
            assert payload <= 1.003 * bits + 8 * 16, f"{payload} bits, {bits:.0f} estimated"


def releases() -> dict[str, dict[str, Any]]:
    path = ROOT / "compressai" / "releases.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["releases"]) if path.is_file() else {}


FILES = {name: release for name, release in releases().items() if not release["architecture"].endswith("-vbr")}
KEYS = official_keys("compressai")
needs_lists = pytest.mark.skipif(not KEYS or not FILES, reason="no lists of releases (set OBVERSE_GOLDENS)")


def codec_of(release: dict[str, Any]) -> str:
    return str(release["architecture"]) + ("" if release["metric"] == "mse" else f"-{release['metric']}")


@needs_lists
def test_every_release_is_a_quality_of_a_codec() -> None:
    for file, release in FILES.items():
        config = load_config(codec_of(release), quality=release["quality"])
        assert config.source is not None
        assert config.source.rpartition("/")[2] == file
        encoder, prior = arguments(release["architecture"], release["N"], release["M"])
        assert (dict(config.parts["encoder"]), dict(config.parts["prior"])) == (encoder, prior)
    counts = {load_config(codec_of(release)).qualities for release in FILES.values()}
    assert counts == {6, 8}


@needs_lists
@pytest.mark.parametrize("keys", sorted({release["keys"] for release in FILES.values()}))
def test_every_tensor_of_a_release_has_its_place(keys: str) -> None:
    release = next(release for release in FILES.values() if release["keys"] == keys)
    tensors = {
        name: torch.empty([size or 1 for size in shape], device="meta") for name, (shape, _) in KEYS[keys].items()
    }
    pipeline = build_hollow(load_config(codec_of(release), quality=release["quality"]))
    ours = {
        f"{part}.{name}": tensor.shape
        for part, module in pipeline.modules.items()
        for name, tensor in module.state_dict().items()
    }
    assert kind(tensors) == "compressai"
    assert {name: tensor.shape for name, tensor in translated(Path("f"), tensors).items()} == ours


@needs_lists
@pytest.mark.parametrize("keys", [name for name in KEYS if "-vbr" in name])
def test_variable_rates_are_refused(keys: str) -> None:
    with pytest.raises(WeightsError, match="variable-rate models of CompressAI are not supported"):
        translated(Path("f"), {name: torch.empty(0) for name in KEYS[keys]})
