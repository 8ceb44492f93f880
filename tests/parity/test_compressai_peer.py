"""CompressAI itself, in an environment of its own, gives the latents, rates and pictures of ours.

    python benchmarks/compressai_env.py
    python -m pytest -m peers tests/parity/test_compressai_peer.py

Weights are random, of released sizes, and come from CompressAI under its names.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import obverse
from obverse.distributions import FactorizedTable
from obverse.hyperprior import gaussian_likelihood
from obverse.interfaces import Block, Condition, Layout
from obverse.loop import Quantized, run
from obverse.numerics import EXACT, NATIVE

pytestmark = pytest.mark.peers

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compressai_env.py"
HEIGHT, WIDTH = 128, 192
TOLERANCE = 1e-4

MODELS = {
    "bmshj2018-factorized": ([128, 192], 1),
    "bmshj2018-hyperprior": ([128, 192], 1),
    "mbt2018-mean": ([128, 192], 1),
    "mbt2018": ([192, 192], 1),
    "cheng2020-anchor": ([128], 1),
    "elic": ([192, 320], None),
    "elic-chandelier": ([192, 320], 1),
}
"""Arguments of CompressAI's class, and a quality of ours with the same sizes."""

CELL_BY_CELL = ("mbt2018", "cheng2020-anchor")
"""Models whose `forward` takes another context than their decoder, so that it estimates another rate."""


def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compressai_env", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peer() -> Iterator[Any]:
    module = environment()
    folder = Path(os.environ.get("OBVERSE_COMPRESSAI", module.FOLDER))
    if not module.is_built(folder):
        pytest.skip(f"no environment with CompressAI in {folder}; benchmarks/compressai_env.py makes one")
    with module.Peer(folder) as process:
        yield process


@dataclass(frozen=True)
class Case:
    """What CompressAI makes of an image, and the file with its weights."""

    name: str
    image: Tensor
    file: Path
    theirs: dict[str, Any]

    def codec(self, numerics: str) -> obverse.Codec:
        return obverse.load(self.name, quality=MODELS[self.name][1], weights=[self.file], numerics=numerics)


def picture() -> Tensor:
    """[1, 3, H, W] in 0…1, of 8 bits: smooth, with some grain."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, HEIGHT // 16, WIDTH // 16, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")
    grain = 0.05 * torch.randn(1, 3, HEIGHT, WIDTH, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).round() / 255


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, image = request.param, picture()
    arguments = MODELS[name][0]
    made = peer.ask("make", architecture=name, arguments=arguments, seed=0, image=image, typical=0.5)
    file = tmp_path_factory.mktemp(name) / "weights.pth.tar"
    torch.save(made["weights"], file)
    theirs = peer.ask("code", architecture=name, arguments=arguments, weights=made["weights"], image=image)
    return Case(name, image, file, theirs)


class Estimating:
    """Symbols of a source, and the bits that the densities themselves give to them."""

    def __init__(self, codec: obverse.Codec, source: Quantized) -> None:
        self.density: Any = codec.pipeline.prior.density  # type: ignore[attr-defined]
        self.source, self.bits = source, 0.0

    def __call__(self, block: Block) -> Tensor:
        symbols = self.source(block)
        if isinstance(block.distribution, FactorizedTable):
            likelihood = self.density.likelihood(symbols + block.context["mean"])
        else:
            likelihood = gaussian_likelihood(symbols.float(), block.context["scale"])
        self.bits -= float(likelihood.double().log2().sum())
        return symbols


@torch.inference_mode()
def test_latents_rates_and_pictures(case: Case) -> None:
    codec = case.codec(NATIVE)
    encoder, quantizer, prior = codec.pipeline.encoder, codec.pipeline.quantizer, codec.pipeline.prior
    layout = Layout(1, HEIGHT // 16, WIDTH // 16)
    latents = encoder.encode(case.image, Condition())
    source = Estimating(codec, Quantized(quantizer, latents))
    coded = run(prior.blocks(layout, Condition()), source)
    decoded = quantizer.dequantize(coded, layout)

    symbols = torch.cat([part.symbols.flatten() for part in coded if part.name == "y"])
    assert len(symbols.unique()) > 5, "the symbols say little"
    # A latent is its mean and an integer: where latents agree, symbols do.
    near = torch.isclose(decoded["y"], case.theirs["y_hat"], atol=TOLERANCE, rtol=TOLERANCE)
    if case.name.startswith("elic") and not near.all():
        # Ten passes of random networks make a last bit of the first one a symbol of the last one, now and then.
        assert near.float().mean() > 0.98
        assert source.bits == pytest.approx(case.theirs["bits"], rel=0.01)
        return
    assert near.all()
    images = encoder.decode(decoded, Condition()).clamp(0, 1)
    torch.testing.assert_close(images, case.theirs["x_hat"], atol=TOLERANCE, rtol=0)
    if case.name not in CELL_BY_CELL:
        assert source.bits == pytest.approx(case.theirs["bits"], rel=TOLERANCE)


def test_files_are_about_as_large(case: Case) -> None:
    """Escapes and scales between the tables cost something else, and few symbols tell little; so within 5 %."""
    codec = case.codec(EXACT)
    pixels = (case.image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    data = codec.compress(pixels)
    assert len(data) == pytest.approx(case.theirs["bytes"], rel=0.05)
    assert codec.decompress(data).size == (WIDTH, HEIGHT)
