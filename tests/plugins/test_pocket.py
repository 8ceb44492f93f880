"""The bundled pocket codecs and their parts."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obverse
from obverse import container
from obverse.codec import Codec
from obverse.distributions import FactorizedTable
from obverse.errors import WeightsError
from obverse.hyperprior import gaussian_likelihood
from obverse.images import read_image
from obverse.interfaces import Encoder, Layout, Prior, Quantizer
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse_pocket.autoencoders import ConvAutoencoder, HyperAutoencoder
from obverse_pocket.density import RADIUS, LogisticMixture
from obverse_pocket.hyperprior import MeanScaleHyperprior
from obverse_pocket.llama import LlamaPrior
from obverse_pocket.quantizers import UnitVectorQuantizer
from obverse_pocket.training import VectorQuantizedTask

M = TypeVar("M", bound=nn.Module)


def filled(module: M, gain: float = 1.0) -> M:
    """Random weights everywhere, also where a network starts from zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                fan = max(1, parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain / fan**0.5)
    return module


class TestConvAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        widths = {"widths": [4, 4, 4], "encoder_blocks": [1, 0, 1], "decoder_blocks": [1, 1, 1]}
        return filled(ConvAutoencoder(**widths, latent_channels=5))


class TestHyperAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        widths = {"widths": [4, 4, 4], "blocks": [1, 0, 1], "latent_channels": 6}
        return filled(HyperAutoencoder(**widths, hyper_width=4, hyper_channels=3, qualities=2))


class TestUnitVectorQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return filled(UnitVectorQuantizer(size=50, dim=6))


class TestLlamaPrior(PriorContract):
    def make(self) -> Prior:
        return filled(LlamaPrior(vocabulary=19, dim=16, layers=2, heads=2, window=4), gain=2.0)


class TestMeanScaleHyperprior(PriorContract):
    def make(self) -> Prior:
        sizes = {"latent_channels": 3, "hyper_channels": 2, "qualities": 2}
        prior = filled(MeanScaleHyperprior(**sizes, hyper_width=4), gain=2.0)
        prior.tables.copy_(LogisticMixture(2, 2).tables())
        return prior

    def layouts(self) -> list[Layout]:
        return [Layout(1, 4, 4), Layout(3, 8, 4)]


class TestLogisticMixture:
    def density(self) -> LogisticMixture:
        density = LogisticMixture(2, 3)
        with torch.no_grad():
            density.mean += torch.tensor([0.0, 4.0, -9.0])[:, None]
            density.log_scale += torch.tensor([0.0, 1.0, -1.0])[:, None]
        return density

    def test_tables_are_the_density(self) -> None:
        density = self.density()
        tables = density.tables()
        assert tables.shape == (2, 3, 2 * RADIUS + 2)
        assert (tables.sum(-1) == 2**24).all()
        values = torch.arange(-RADIUS, RADIUS + 1).double().expand(2, 3, 1, -1)
        exact = density.double()(values, torch.arange(2))[:, :, 0]
        assert (tables[:, :, :-1] / 2**24 - exact).abs().max() < 1e-5
        density.float()

    def test_making_tables_changes_nothing(self) -> None:
        density = self.density()
        before = {key: value.clone() for key, value in density.state_dict().items()}
        density.tables()
        assert all(torch.equal(before[key], value) for key, value in density.state_dict().items())
        assert all(value.dtype == torch.float32 for value in density.parameters())

    def test_probabilities_of_integers_sum_to_one(self) -> None:
        values = torch.arange(-400, 401).double().expand(2, 3, 1, -1)
        total = self.density().double()(values, torch.arange(2)).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)

    def test_values_outside_a_table_come_back(self) -> None:
        from obverse.coders.range import RangeDecoder, RangeEncoder

        tables = self.density().tables()[0].long().numpy()
        values = torch.tensor([[-RADIUS - 1, RADIUS + 1, 10000, 0, -RADIUS, RADIUS]])
        distribution = FactorizedTable(torch.tensor([[0, 1, 2, 0, 1, 2]]), [(-RADIUS, row) for row in tables])
        encoder = RangeEncoder()
        encoder.put(values, distribution)
        assert torch.equal(RangeDecoder(encoder.finish()).take(distribution), values)


def picture(width: int = 80, height: int = 48) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["pocket-vq", "pocket-hyper"])
class TestBundledCodecs:
    @pytest.fixture
    def codec(self, name: str) -> Codec:
        return obverse.load(name)

    def test_round_trip(self, codec: Codec) -> None:
        data = check_roundtrip(codec, picture())
        assert obverse.decompress(data).size == (80, 48)

    def test_every_quality_is_a_larger_file_and_a_better_picture(self, codec: Codec) -> None:
        found = [codec.reconstruct(picture(), quality=quality) for quality in range(1, codec.qualities + 1)]
        assert [len(result.data) for result in found] == sorted(len(result.data) for result in found)
        assert found[-1].psnr >= found[0].psnr

    def test_streams_do_not_depend_on_the_number_of_threads(self, codec: Codec) -> None:
        """Written with one thread, read with two; the checksum of the symbols tells."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            data = codec.compress(picture())
            torch.set_num_threads(2)
            assert codec.decompress(data).size == (80, 48)
        finally:
            torch.set_num_threads(before)


def test_training_from_weights_that_are_missing_is_refused(tmp_path: Path) -> None:
    encoder = {"widths": [8, 8, 8], "encoder_blocks": [0, 0, 0], "decoder_blocks": [0, 0, 0], "latent_channels": 4}
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors' cannot be read"):
        VectorQuantizedTask(encoder=encoder, codebook=16, start=str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("quality", [1, 4, 8])
def test_payloads_are_as_long_as_the_likelihoods_say(quality: int) -> None:
    """At most 0.3 % and 16 bytes longer, with the scales as the network gives them, not those of the tables.

    They may be shorter: likelihoods end at 1e-9, and unexpected values cost less than that here.
    """
    codec = obverse.load("pocket-hyper")
    pixels = read_image(Path(__file__).parents[2] / "examples" / "images" / "brushes.jpg").pixels[:256, :320].copy()
    prior = codec.pipeline.prior
    with patch.object(prior, "gaussian", side_effect=prior.gaussian) as scales:
        stream = container.unpack(codec.compress(pixels, quality=quality))
    coded, _ = codec._decode(stream)
    y = next(part.symbols for part in coded if part.name == "y").double()
    likelihoods = gaussian_likelihood(y, scales.call_args.args[0].clamp(min=0.11))
    expected = codec.rate(pixels, quality=quality).bits_by_array["z"] - likelihoods.log2().sum().item()
    assert 0.97 * expected <= 8 * len(stream.payload) <= 1.003 * expected + 128
