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

import torch
from torch import Tensor

from obverse.errors import ConfigError

MAX_DEPTH = 2**18
"""Terms of one sum: 2**18 products of 128 * 64 stay within 32 bits."""

_FLOAT32_DEPTH = 2048  # 2048 products of 128 * 64 reach 2**24, the last integer that float32 counts to
_CHUNK = 2**21  # 32-bit sums held at once, so that they stay in the cache
_VARIABLE = "OBVERSE_EXACT_BACKEND"


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


def _join_sums(sums: Tensor, rows: int) -> Tensor:
    """Sums of limb products [2M, 2N], any exact dtype, to [M, N] float64."""
    both = sums.view(2, rows, 2, -1)
    by_weight = both[0].double().mul_(256).add_(both[1])  # [M, 2, N]
    return by_weight[:, 0].mul(128).add_(by_weight[:, 1])


def _int8_product(left: Tensor, right: Tensor) -> Tensor:
    """int8 [M, K] x [N, K] -> int32 [M, N]."""
    if left.device.type == "cpu":
        return torch._int_mm(left, right.t())
    return _aligned_product(left, right)


def _aligned_product(left: Tensor, right: Tensor) -> Tensor:
    """As `_int8_product`, with sides padded to what CUDA takes: more than 16 rows, multiples of 8 elsewhere."""
    (m, k), n = left.shape, len(right)
    left = torch.nn.functional.pad(left, (0, -k % 8, 0, max(0, 32 - m)))
    right = torch.nn.functional.pad(right, (0, -k % 8, 0, -n % 8))
    return torch._int_mm(left.contiguous(), right.contiguous().t())[:m, :n]


def _with_int8(activations: Tensor, carried: Tensor) -> Tensor:
    sums = _int8_product(_split_activations(activations), carried)
    return _join_sums(sums.contiguous(), len(activations))


def _with_float32(activations: Tensor, carried: Tensor) -> Tensor:
    limbs = _split_activations(activations).float()
    total = activations.new_zeros(len(activations), len(carried) // 2, dtype=torch.float64)
    for start in range(0, limbs.shape[1], _FLOAT32_DEPTH):
        part = slice(start, start + _FLOAT32_DEPTH)
        total += _join_sums(limbs[:, part] @ carried[:, part].t(), len(activations))
    return total


def _with_float64(activations: Tensor, carried: Tensor) -> Tensor:
    return activations.double() @ carried.t()


_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "int8": _with_int8,
    "float32": _with_float32,
    "float64": _with_float64,
}
BACKENDS = tuple(_PRODUCTS)


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
    multiply = _PRODUCTS[backend]
    columns = len(carried) if backend == "float64" else 2 * len(carried)
    rows = max(16, _CHUNK // columns)
    if len(activations) <= rows:
        return multiply(activations, carried)
    return torch.cat([multiply(part, carried) for part in torch.split(activations, rows)])


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
    """The backend in use: the one asked for, or the fastest on this device that passes a trial."""
    if _forced is not None:
        return _forced
    named = os.environ.get(_VARIABLE)
    return _known(named) if named else _fastest(device)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ConfigError(f"there is no exact backend {name!r} (backends: {', '.join(BACKENDS)})")
    return name


@lru_cache
def _fastest(device: torch.device) -> str:
    times = {name: seconds for name in BACKENDS if (seconds := _trial(name, device)) is not None}
    if not times:
        raise ConfigError(f"device {device} gives wrong sums with every exact backend; use another device")
    return min(times, key=lambda name: times[name])


def _trial(backend: str, device: torch.device) -> float | None:
    """Seconds for one step and one pass of a small model, or None where the sums are wrong or do not exist."""
    side, rows = 768, 128
    pattern = torch.arange(side * side, device=device)
    weights = (pattern * 7919 % 16385 - 8192).view(side, side)
    activations = (pattern * 104729 % (2 * 32514 + 1) - 32514).view(side, side)[:rows].to(torch.int16)
    activations[0], weights[0] = 32514, 8192
    expected = activations[:2].long().cpu() @ weights.long().cpu().t()
    try:
        carried = carry(split_weights(weights), backend)
        for some in (activations[:2], activations):
            if not torch.equal(product(some, carried, backend)[:2].long().cpu(), expected):
                return None
        return _seconds(activations[:1], carried, backend) * rows + _seconds(activations, carried, backend)
    except RuntimeError:
        return None


def _seconds(activations: Tensor, carried: Tensor, backend: str) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(activations, carried, backend)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return best
