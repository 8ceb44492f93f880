"""minGPT as taming-transformers has it."""

from __future__ import annotations

from obverse.interfaces import Prior
from obverse.minimal_gpt import MinimalGPT
from obverse.selftest.seeded import fill


def toys() -> dict[str, Prior]:
    """A small one with seeded weights, by name."""
    prior = MinimalGPT(vocabulary=53, dim=36, layers=2, heads=3, window=4, start=7)
    return {"minimal-gpt": fill(prior, "minimal-gpt")}
