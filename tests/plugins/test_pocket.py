"""The bundled pocket codecs and their parts."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obverse
from obverse import container
from obverse.codec import Codec
from obverse.errors import WeightsError
from obverse.hyperprior import gaussian_likelihood
from obverse.images import read_image
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.numerics import NATIVE, prepare
from obverse.scalar import RoundingQuantizer
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.training.tasks.tokenizer import TokenizerTask
from obverse_pocket.autoencoders import ConvAutoencoder, HyperAutoencoder
from obverse_pocket.hyperprior import MultiRatePrior
from obverse_pocket.lapped import LappedAnalysis, LappedSynthesis, channel_frequencies, lapped_filters
from obverse_pocket.llama import LlamaPrior
from obverse_pocket.quantizers import UnitVectorQuantizer

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


class TestConvAutoencoderOfLargePatches(EncoderContract):
    def make(self) -> Encoder:
        widths = {"widths": [8, 8], "encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}
        return filled(ConvAutoencoder(**widths, latent_channels=5, patch=7))

    def test_stride(self) -> None:
        encoder = self.make()
        assert encoder.stride == encoder.multiple == 14


class TestHyperAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        widths = {"analysis_widths": [4, 4, 4], "synthesis_widths": [4, 4, 4], "latent_channels": 6}
        blocks = {"analysis_blocks": [1, 0, 1], "synthesis_blocks": [1, 1, 0]}
        return filled(HyperAutoencoder(**widths, **blocks, hyper_width=4, hyper_channels=3, qualities=2))

    def test_other_numbers_of_stages_are_refused(self) -> None:
        sides = {f"{side}_{key}": [4, 4] for side in ("analysis", "synthesis") for key in ("widths", "blocks")}
        with pytest.raises(ValueError, match="three stages"):
            HyperAutoencoder(**sides, latent_channels=6, hyper_width=4, hyper_channels=3, qualities=2)


class TestUnitVectorQuantizer(QuantizerContract):
    def make(self) -> Quantizer:
        return filled(UnitVectorQuantizer(size=50, dim=6))


class TestLlamaPrior(PriorContract):
    def make(self) -> Prior:
        return filled(LlamaPrior(vocabulary=19, dim=16, layers=2, heads=2, window=4), gain=2.0)


class TestMultiRatePrior(PriorContract):
    def make(self) -> Prior:
        torch.manual_seed(0)
        groups = {"group_channels": [2, 3], "group_widths": [5, 6], "kernels": [5, 3]}
        prior = filled(MultiRatePrior(**groups, hyper_channels=2, hyper_width=4, qualities=2), gain=2.0)
        with torch.no_grad():
            prior.log_scale.copy_(torch.linspace(-1.5, 1.5, 10).view(2, 5))
        return prior

    def layouts(self) -> list[Layout]:
        return [Layout(1, 1, 1), Layout(1, 4, 4), Layout(3, 7, 5)]

    @pytest.mark.parametrize("quality", [0, 1])
    def test_training_sees_what_the_codec_codes(self, quality: int) -> None:
        """Scales and means of the blocks are those of the pass in which all latents are known."""
        prior = prepare(self.make(), NATIVE)
        assert isinstance(prior, MultiRatePrior)
        layout = Layout(2, 8, 4)
        with torch.no_grad():
            trial = self.trial(prior.blocks(layout, Condition(quality)))
            latents = RoundingQuantizer(channels={"y": 5, "z": 2}).dequantize(trial.coded, layout)
            scale, mean = prior.known(latents["y"], latents["z"], torch.tensor([quality, quality]))
        for block in trial.blocks[1:]:
            assert block.positions is not None
            torch.testing.assert_close(scale.flatten(1)[:, block.positions].clamp(min=0.11), block.context["scale"])
            torch.testing.assert_close(mean.flatten(1)[:, block.positions], block.context["mean"])

    def test_each_picture_has_the_likelihoods_of_its_own_quality(self) -> None:
        prior = self.make()
        assert isinstance(prior, MultiRatePrior)
        latents = {"y": torch.randn(3, 5, 4, 4), "z": torch.randn(3, 2, 1, 1)}
        together, _ = prior.likelihoods(latents, torch.tensor([1, 0, 1]))
        for row, quality in enumerate([1, 0, 1]):
            own = {name: value[row : row + 1] for name, value in latents.items()}
            alone, _ = prior.likelihoods(own, torch.tensor([quality]))
            for name in latents:
                torch.testing.assert_close(together[name][row], alone[name][0])


class TestLappedTransform:
    def test_synthesis_inverts_analysis(self) -> None:
        """With filters of neighbouring blocks, along one side."""
        analysis, synthesis = lapped_filters()
        length = 16 * 6
        forward, backward = torch.zeros(2, 16 * 5, length, dtype=torch.float64)
        for block in range(5):
            rows = slice(16 * block, 16 * block + 16)
            forward[rows, 16 * block : 16 * block + 32] = analysis
            backward[rows, 16 * block : 16 * block + 32] = synthesis
        inner = slice(16, -16)
        torch.testing.assert_close((backward.T @ forward)[inner, inner], torch.eye(length - 32, dtype=torch.float64))
        torch.testing.assert_close(synthesis.norm(dim=1), torch.ones(16, dtype=torch.float64))

    def test_smooth_pictures_come_back(self) -> None:
        """The corner of low frequencies alone is kept, so the picture is one of them."""
        rows, columns = torch.meshgrid(torch.arange(128), torch.arange(160), indexing="ij")
        wave = torch.cos(rows / 16) * torch.sin(columns / 20)
        image = torch.stack([wave, wave * 0.5, 0.3 - wave * 0.2])[None]
        decoded = LappedSynthesis(320)(LappedAnalysis(320)(image))
        assert (decoded - image)[:, :, 32:-32, 32:-32].abs().max() < 0.01

    def test_channels_are_sorted_by_typical_energy(self) -> None:
        channels = channel_frequencies(320)
        assert channels[0] == (0, 0, 0)
        assert len(set(channels)) == 320
        assert sum(colour == 0 for colour, _, _ in channels) == 200


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
    sizes = {"widths": [8, 8, 8], "encoder_blocks": [0, 0, 0], "decoder_blocks": [0, 0, 0], "latent_channels": 4}
    parts = {
        "encoder": {"name": "pocket-conv", **sizes},
        "quantizer": {"name": "unit-vector", "size": 16, "dim": 4},
    }
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        TokenizerTask(**parts, start=str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("quality", [1, 4, 8])
def test_payloads_are_as_long_as_the_likelihoods_say(quality: int) -> None:
    """At most 0.3 % and 16 bytes longer, with the scales as the network gives them, not those of the tables.

    They may be shorter: likelihoods end at 1e-9, and unexpected values cost less than that here.
    """
    codec = obverse.load("pocket-hyper")
    pixels = read_image(Path(__file__).parents[2] / "examples" / "images" / "brushes.jpg").pixels[:256, :320].copy()
    stream = container.unpack(codec.compress(pixels, quality=quality))
    coded, _ = codec._decode(stream)
    bits = codec.rate(pixels, quality=quality).bits_by_array["z"]
    for part in coded[1:]:
        bits -= gaussian_likelihood(part.symbols.double(), part.context["scale"]).log2().sum().item()
    assert 0.97 * bits <= 8 * len(stream.payload) <= 1.003 * bits + 128
