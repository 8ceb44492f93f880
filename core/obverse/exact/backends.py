"""Products of integer matrices: three ways that give the same integers.

backend    arithmetic                                      bytes a weight
-------    --------------------------------------------    --------------
int8       four products of bytes, 32-bit sums             2
float32    the same four products in float32, exact sums   8
float64    one product in float64, exact sums              8

Weights are within 2**13 and activations within 2**15 in magnitude. Both are split into a high and a low limb:
w = 128 w_high + w_low with both limbs within +-64, a = 256 a_high + a_low with signed bytes. The bound of +-64 is what
keeps processors right that add pairs of byte products in 16 bits (x86 without VNNI): 2 * 255 * 64 < 2**15.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.exact.rounding import ACTIVATION_LIMIT

MAX_DEPTH = 2**17
"""Terms of one sum: so many products of 128 * 64 stay below 2**31."""

_FLOAT32_DEPTH = 2048  # 2048 products of 128 * 64 reach 2**24, the last integer that float32 counts to
_SUMS = 2**19  # 32-bit sums held at once
_COLUMNS = 2048
_FEW = 16  # rows of a step, which go in one product
_VARIABLE = "OBVERSE_EXACT_BACKEND"
_SMALLEST = "int8"  # holds weights in a quarter of the memory, which makes up for up to twice the time


def split_weights(weights: Tensor) -> Tensor:
    """Integers [N, K] within 2**13 to limbs [2N, K] int8: high rows, then low rows, all within +-64."""
    high = (weights + 64) >> 7
    return torch.cat([high, weights - (high << 7)]).to(torch.int8)


def join_weights(limbs: Tensor, dtype: torch.dtype) -> Tensor:
    """The integers [N, K] that limbs [2N, K] stand for."""
    high, low = limbs.to(dtype).chunk(2)
    return high.mul(128).add_(low)


def _split_activations(activations: Tensor) -> Tensor:
    """int16 [M, K] to limbs [2M, K] int8: high rows, then low rows."""
    return torch.stack([(activations + 128) >> 8, activations]).to(torch.int8).flatten(0, 1)


def _join_sums(sums: Tensor, out: Tensor) -> None:
    """Sums of limb products [2M, 2N], int32, to out [M, N] float64. Every step is exact, fused or not."""
    both = sums.double().view(2, *out.shape[:1], 2, -1)
    by_weight = torch.add(both[1], both[0], alpha=256)  # [M, 2, N]
    torch.add(by_weight[:, 1], by_weight[:, 0], alpha=128, out=out)


def _int8_product(left: Tensor, right: Tensor) -> Tensor:
    """int8 [M, K] x [N, K] -> int32 [M, N]."""
    if left.device.type == "cpu" and left.shape[1] > 1:  # sums of one term are wrong there
        return torch._int_mm(left, right.t())
    return _aligned_product(left, right)


def _aligned_product(left: Tensor, right: Tensor) -> Tensor:
    """As `_int8_product`, with sides padded to what CUDA takes: more than 16 rows, multiples of 8 elsewhere."""
    (m, k), n = left.shape, len(right)
    left = torch.nn.functional.pad(left, (0, -k % 8, 0, max(0, 32 - m)))
    right = torch.nn.functional.pad(right, (0, -k % 8, 0, -n % 8))
    return torch._int_mm(left.contiguous(), right.contiguous().t())[:m, :n]


def _with_int8(activations: Tensor, limbs: Tensor, out: Tensor) -> None:
    _join_sums(_int8_product(_split_activations(activations), limbs), out)


def _with_float32(activations: Tensor, limbs: Tensor, out: Tensor) -> None:
    split = _split_activations(activations).float()
    pieces = zip(*(torch.split(some, _FLOAT32_DEPTH, 1) for some in (split, limbs)), strict=True)
    with torch.autocast(activations.device.type, enabled=False):
        sums = sum((left @ right.t()).to(torch.int32) for left, right in pieces)
    _join_sums(cast(Tensor, sums), out)


def _in_blocks(multiply: Callable[[Tensor, Tensor, Tensor], None], activations: Tensor, limbs: Tensor) -> Tensor:
    """A product by limbs, block by block so that 32-bit sums stay in the cache."""
    rows, columns = len(activations), len(limbs) // 2
    out = activations.new_empty(rows, columns, dtype=torch.float64)
    if rows <= _FEW:
        multiply(activations, limbs, out)
        return out
    by_limb = limbs.view(2, columns, -1)
    for left in range(0, columns, _COLUMNS):
        block = by_limb[:, left : left + _COLUMNS].reshape(-1, limbs.shape[1])
        step = max(_FEW, _SUMS // (2 * len(block)))
        for top in range(0, rows, step):
            multiply(activations[top : top + step], block, out[top : top + step, left : left + _COLUMNS])
    return out


_LIMB_PRODUCTS = {"int8": _with_int8, "float32": _with_float32}
BACKENDS = (*_LIMB_PRODUCTS, "float64")


def carry(limbs: Tensor, backend: str) -> Tensor:
    """Weight limbs in the form that a backend multiplies with."""
    if backend == "int8":
        return limbs
    return limbs.float() if backend == "float32" else join_weights(limbs, torch.float64)


def product(activations: Tensor, carried: Tensor, backend: str) -> Tensor:
    """Exact product with a weight matrix.

    Args:
        activations: [M, K] int16, magnitudes up to `rounding.ACTIVATION_LIMIT`.
        carried: [N, K] weights from `carry`.
        backend: one of `BACKENDS`.

    Returns:
        [M, N] float64 whole numbers.
    """
    if backend == "float64":
        return activations.double() @ carried.t()
    return _in_blocks(_LIMB_PRODUCTS[backend], activations, carried)


_forced: str | None = None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with one backend for as long as the `with` lasts; results do not change."""
    global _forced
    before, _forced = _forced, _known(name)
    try:
        yield
    finally:
        _forced = before


def backend_for(device: torch.device) -> str:
    """The backend in use: the one asked for, or by trial the fastest on this device whose sums are right.

    `int8` is preferred while it takes at most twice the time of the fastest, for its memory.
    """
    if _forced is not None:
        return _forced
    named = os.environ.get(_VARIABLE)
    return _known(named) if named else _fastest(device)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ConfigError(f"there is no exact backend {name!r} (backends: {', '.join(BACKENDS)})")
    return name


def usable_backends(device: torch.device) -> dict[str, float]:
    """Backends whose sums are right on a device, with the seconds of a trial."""
    limbs, activations, expected = _trial_matrices(device)
    trials = {name: _trial(name, limbs, activations, expected) for name in BACKENDS}
    return {name: seconds for name, seconds in trials.items() if seconds is not None}


@lru_cache
def _fastest(device: torch.device) -> str:
    times = usable_backends(device)
    if not times:
        raise ConfigError(f"device {device} gives wrong sums with every exact backend; use another device")
    fastest = min(times, key=lambda name: times[name])
    return _SMALLEST if times.get(_SMALLEST, torch.inf) <= 2 * times[fastest] else fastest


def _trial_matrices(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Limbs of weights [2048, 768], activations [64, 768] with extreme ones, and the product of the first two rows.

    The weights are so many that they come from memory and not from a cache, as those of real models do.
    """
    depth, outputs, rows = 768, 2048, 64
    weights = (torch.arange(outputs * depth, dtype=torch.int32) * 7919 % 16385 - 8192).view(outputs, depth)
    activations = (torch.arange(rows * depth, dtype=torch.int32) * 8191 % 65029 - ACTIVATION_LIMIT).view(rows, depth)
    activations[0], weights[0] = ACTIVATION_LIMIT, 8192
    expected = activations[:2].long() @ weights.long().t()
    return split_weights(weights).to(device), activations.to(device, torch.int16), expected


def _trial(backend: str, limbs: Tensor, activations: Tensor, expected: Tensor) -> float | None:
    """Seconds for steps and pass of a short sequence; None where sums are wrong or the backend does not exist."""
    try:
        carried = carry(limbs, backend)
        for some in (activations[:2], activations):
            if not torch.equal(product(some, carried, backend)[:2].long().cpu(), expected):
                return None
        steps = _seconds(activations[:1], carried, backend) * len(activations)
        return steps + _seconds(activations, carried, backend)
    except RuntimeError:
        return None


def _seconds(activations: Tensor, carried: Tensor, backend: str) -> float:
    """Least time of a product; on CPUs that of the processor, so that other programs do not disturb the choice."""
    clock = time.process_time if activations.device.type == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(3):
        start = clock()
        product(activations, carried, backend)[0, 0].item()
        best = min(best, clock() - start)
    return best
