"""Next-scale prediction in small (VAR, arXiv:2404.02905)."""

from __future__ import annotations

from obverse.interfaces import Prior
from obverse.next_scale import NextScalePrior
from obverse.selftest import seeded


def toys() -> dict[str, Prior]:
    """Float priors over grids of 4x4 with seeded weights, by case."""
    return {
        name: seeded.fill(
            NextScalePrior(
                sides=(1, 2, 3, 4),
                vocabulary=40,
                channels=8,
                dim=32,
                layers=2,
                heads=4,
                classes=3,
                shared=shared,
                phis=2,
            ),
            name,
        )
        for name, shared in (("next-scale", False), ("next-scale-shared-adaln", True))
    }
