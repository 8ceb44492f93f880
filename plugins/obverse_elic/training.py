"""Training of ELIC's codecs, and of the generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from obverse.channel_groups import ChannelGroupPrior
from obverse.errors import ConfigError
from obverse.hyperprior import SMALLEST_LIKELIHOOD, SMALLEST_SCALE
from obverse.nn.residual import lower_bound
from obverse.pipeline import create
from obverse.training.task import Task
from obverse_elic.encoders import ElicAutoencoder
from obverse_elic.generator import ElicGeneratorPrior


class ElicTask(Task):
    """Bits per pixel + lambda * 255^2 * mean square, uniform noise in place of rounding (arXiv:1809.02736).

    Args:
        encoder: keyword arguments of `ElicAutoencoder`.
        prior: `name`, `elic` or `elic-generator`, and its keyword arguments.
        rd_lambda: lambda, as CompressAI's for the mean square error.
    """

    def __init__(self, *, encoder: Mapping[str, Any], prior: Mapping[str, Any], rd_lambda: float = 0.013) -> None:
        super().__init__()
        self.encoder = ElicAutoencoder(**encoder)
        made = create("prior", prior)
        if not isinstance(made, ChannelGroupPrior):
            raise ConfigError(f"prior {prior['name']!r} has no channel groups: it is 'elic' or 'elic-generator'")
        self.prior = made
        self.rd_lambda = rd_lambda

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.encoder.analysis(images)
        z = self.encoder.hyper_analysis(y)
        y, z = (latent.float() + torch.rand_like(latent, dtype=torch.float32) - 0.5 for latent in (y, z))
        z_bits, y_bits = self.bits(y, z)
        square = (self.encoder.synthesis(y).float() - images).square().mean()
        pixels = images.numel() // images.shape[1]
        rate = (z_bits + y_bits) / pixels
        numbers = {"bpp": rate.detach(), "bpp_z": z_bits.detach() / pixels, "psnr": -10 * square.detach().log10()}
        return rate + self.rd_lambda * 255**2 * square, numbers

    def bits(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rates of noisy latents, z's and y's, summed over the batch."""
        if isinstance(self.prior, ElicGeneratorPrior):
            z_likelihood = _gaussian(z, *self.prior.known_hyper(z))
        else:
            assert self.prior.density is not None
            z_likelihood = self.prior.density.likelihood(z)
        y_likelihood = _gaussian(y, *self.prior.known(y, z))
        return -z_likelihood.log2().sum(), -y_likelihood.log2().sum()

    def weights(self) -> dict[str, Tensor]:
        named = self.state_dict()
        return {name: value for name, value in named.items() if name.startswith(("encoder.", "prior."))}

    def preview(self, images: Tensor) -> Tensor:
        return self.encoder.synthesis(self.encoder.analysis(images).round())  # type: ignore[no-any-return]


def _gaussian(values: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
    """Likelihoods whose gradients also lift scales and likelihoods that are below their bounds."""
    scale, distance = lower_bound(scale.float(), SMALLEST_SCALE), (values - mean.float()).abs()
    normal = torch.special.ndtr
    return lower_bound(normal((0.5 - distance) / scale) - normal((-0.5 - distance) / scale), SMALLEST_LIKELIHOOD)
