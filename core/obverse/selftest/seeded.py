"""Weights and inputs that are the same on every machine: from a hash, not from a random generator."""

from __future__ import annotations

import hashlib
import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def uniform(shape: tuple[int, ...], seed: str) -> Tensor:
    """Multiples of 2**-15 in [-1, 1), float32, from SHAKE-256 of the seed."""
    count = int(np.prod(shape))
    data = hashlib.shake_256(seed.encode()).digest(2 * count)
    return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768).view(shape)


def integers(shape: tuple[int, ...], below: int, seed: str) -> Tensor:
    """Whole numbers in [0, below), int64, below at most 2**16."""
    count = int(np.prod(shape))
    data = hashlib.shake_256(seed.encode()).digest(4 * count)
    return torch.from_numpy((np.frombuffer(data, "<u4").astype(np.int64) * below) >> 32).view(shape)


@torch.no_grad()
def fill(module: M, seed: str, gain: float = 1.0) -> M:
    """Give a module seeded weights: matrices of about unit gain times `gain`, vectors near one, biases near zero.

    Some rows are ten times larger than the others, as in trained networks.
    """
    for name, parameter in module.named_parameters():
        values = uniform(tuple(parameter.shape), f"{seed}/{name}")
        if parameter.ndim < 2:
            if name.endswith("bias"):  # torch draws biases at random
                parameter.zero_()
            parameter.add_(values / 4)
            continue
        fan = max(1, parameter[0].numel())
        parameter.copy_(values * (gain * math.sqrt(3 / fan)))
        parameter[::37] *= 10
    return module.eval()
