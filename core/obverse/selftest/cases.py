"""What is tested: cases by name, and the hash of what a case gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Results = dict[str, list[Tensor]]
"""Tensors by the way in which they were computed; all ways must give the same."""

Compute = Callable[[torch.device], Results]


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        compute: its numbers, on a device.
        model: it is a model of many small layers, which several threads make no faster.
    """

    compute: Compute
    model: bool = False


def all_cases() -> dict[str, Case]:
    """Every case by name: layers, then priors."""
    from obverse.selftest.layers import layer_cases
    from obverse.selftest.models import prior_cases

    return layer_cases() | prior_cases()


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over shapes and little-endian values, 64 bits each; -0.0 counts as 0.0."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        if tensor.is_floating_point():
            hashed.update((tensor.double().cpu() + 0.0).contiguous().numpy().astype("<f8").tobytes())
        else:
            hashed.update(tensor.long().cpu().contiguous().numpy().astype("<i8").tobytes())
    return hashed.hexdigest()
