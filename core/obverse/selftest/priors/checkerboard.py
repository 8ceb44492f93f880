"""Channel groups in two passes over a checkerboard, in small (ELIC, arXiv:2203.10886)."""

from __future__ import annotations

from typing import cast

from torch import nn

from obverse.channel_groups import ChannelGroup, ChannelGroupPrior
from obverse.interfaces import Prior
from obverse.nn.density import FactorizedDensity
from obverse.nn.strided import deconvolution
from obverse.selftest import seeded
from obverse.selftest.priors.context import raise_scales
from obverse.selftest.priors.factorized import seeded_density

_GROUPS = (2, 2, 4, 6)


def toys() -> dict[str, Prior]:
    """Small float priors with seeded weights, by case: anchors in the common network, and in one of their own."""
    return {name: _toy(name, name.endswith("odd")) for name in ("checkerboard", "checkerboard-odd")}


def _toy(name: str, odd: bool) -> ChannelGroupPrior:
    n, m = 6, sum(_GROUPS)
    groups = [
        ChannelGroup(
            earlier=range(sum(_GROUPS[:i])),
            first=sum(_GROUPS[:i]),
            channels=g,
            hyper=2 * m,
            context_widths=(12, 12),
            parameter_widths=(30, 20),
            anchor_widths=(24, 16) if odd else None,
        )
        for i, g in enumerate(_GROUPS)
    ]
    synthesis = nn.Sequential(
        deconvolution(n, n), nn.ReLU(),
        deconvolution(n, n * 3 // 2), nn.ReLU(),
        deconvolution(n * 3 // 2, 2 * m, kernel=3, stride=1),
    )  # fmt: skip
    prior = ChannelGroupPrior(density=FactorizedDensity(n), hyper_synthesis=synthesis, groups=groups, odd_anchors=odd)
    seeded.fill(prior, name, gain=0.6)
    prior.density = seeded_density(n, name)
    for group in cast(list[ChannelGroup], list(prior.groups)):
        raise_scales(group.entropy_parameters)
        if group.anchor_parameters is not None:
            raise_scales(group.anchor_parameters)
    return prior
