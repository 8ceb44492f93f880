"""A watch over the wiring of exact models: any operation that could differ between machines is an error.

Exact layers compute their sums so that rounding cannot happen; they are trusted. What stands between them, residual
sums, reshaping, modulation, may only use operations that are exact or correctly rounded one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import frexp
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

P = ParamSpec("P")
R = TypeVar("R")

_MOVES = (
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze",
    "squeeze", "cat", "stack", "clone", "copy_", "contiguous", "split", "split_with_sizes", "chunk", "unbind",
    "index_select", "index", "gather", "take", "index_put_", "scatter", "scatter_", "slice_scatter", "new_zeros",
    "new_empty", "new_full", "zeros", "zeros_like", "ones", "ones_like", "empty", "empty_like", "full", "full_like",
    "arange", "scalar_tensor", "_to_copy", "to", "alias", "detach", "detach_", "lift_fresh", "constant_pad_nd", "flip",
    "roll", "repeat", "unfold", "as_strided", "pixel_shuffle", "pixel_unshuffle", "embedding", "fill_",
    "zero_", "masked_fill", "masked_fill_", "nonzero", "_reshape_alias", "flatten", "unflatten", "dropout",
    "native_dropout", "tril", "triu", "diagonal", "movedim", "_local_scalar_dense", "item", "repeat_interleave",
    "replication_pad2d", "resolve_conj", "resolve_neg", "is_nonzero",
)  # fmt: skip
_EXACT = (
    "where", "eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "bitwise_and",
    "__and__", "__or__", "__xor__", "bitwise_or", "bitwise_xor", "bitwise_not",
    "__rshift__", "__lshift__", "bitwise_left_shift", "any", "all",
    "bitwise_right_shift", "abs", "neg", "sign", "round", "floor", "ceil", "trunc", "clamp", "clamp_", "clamp_min",
    "clamp_max", "maximum", "minimum", "amax", "amin", "max", "min", "argmax", "argmin", "relu", "sort", "argsort",
    "searchsorted", "bucketize", "isfinite", "equal", "cummax",
)  # fmt: skip
_ROUNDED_ONCE = ("add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "leaky_relu")
_EXACT_ON_INTEGERS = ("sum", "cumsum", "prod", "remainder", "floor_divide", "fmod", "pow", "bincount", "scatter_add_")

_ALLOWED = frozenset(_MOVES) | frozenset(_EXACT)
_watching = 0


class InexactError(RuntimeError):
    """An exact model used an operation whose result may differ between machines."""


@contextmanager
def audit() -> Iterator[None]:
    """Refuse operations that are not exact, outside of exact layers, for as long as the `with` lasts.

    Raises:
        InexactError: at the operation, which it names.
    """
    global _watching
    with _Watch():  # type: ignore[no-untyped-call]
        _watching += 1
        try:
            yield
        finally:
            _watching -= 1


def trusted(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function whose arithmetic is exact by proof; `audit` does not look inside."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        global _watching
        if not _watching:
            return function(*args, **kwargs)
        before, _watching = _watching, 0
        try:
            return function(*args, **kwargs)
        finally:
            _watching = before

    return call


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _watching:
            try:
                _check(func, args, kwargs)
            except InexactError:
                if not func._can_decompose():
                    raise
                with self:  # an operation made of others: look at those
                    return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name in _ALLOWED and not _accumulates(func, args, kwargs):
        return
    if name == "upsample_nearest2d" and _by_whole_factors(*args[:3]):
        return
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floating and name in (*_ROUNDED_ONCE, *_EXACT_ON_INTEGERS) and not _becomes_float(name, args, kwargs):
        return
    if name not in _ROUNDED_ONCE:
        raise InexactError(
            f"{name} is not exact on floating-point numbers; use the layer that obverse.exact has for it"
        )
    if narrow := [tensor.dtype for tensor in floating if tensor.dtype != torch.float64]:
        raise InexactError(f"{name} in {narrow[0]}; exact models compute in float64")
    if kwargs.get("alpha", args[2] if len(args) > 2 else 1) != 1:  # `rsub` has it by position
        raise InexactError(f"{name} with alpha may be fused into one rounding on some machines and not on others")
    if name in ("div", "div_") and not isinstance(args[1], Tensor) and abs(frexp(args[1])[0]) != 0.5:
        raise InexactError(
            f"division by the number {args[1]} is a multiplication on some devices; multiply, or divide by a tensor"
        )
    if name in ("div", "div_") and isinstance(args[1], Tensor) and args[1].ndim == 0 and args[0].ndim:
        raise InexactError("division by a tensor without axes becomes a multiplication on some devices")


def _by_whole_factors(x: Tensor, size: list[int] | None, factors: list[float] | float | None = None) -> bool:
    """Whether enlarging computes no position in floating point."""
    if size is None:
        return isinstance(factors, list) and all(float(factor).is_integer() for factor in factors)
    return all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))


def _accumulates(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether several values may be added up in one place, in any order."""
    name = func.overloadpacket.__name__
    if name == "index_put_":
        return bool(kwargs.get("accumulate", args[3] if len(args) > 3 else False))
    return name in ("scatter", "scatter_") and "reduce" in func._overloadname


def _becomes_float(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation on integers computes in floating point, as 2.0**n and `sum(dtype=torch.float32)` do."""
    dtype = kwargs.get("dtype")
    return (dtype is not None and dtype.is_floating_point) or (
        name in _EXACT_ON_INTEGERS and any(isinstance(value, float) for value in args)
    )
