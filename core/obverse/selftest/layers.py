"""Cases of layers: each exact form on numbers of all magnitudes, in every way that must not matter."""

from __future__ import annotations

from collections.abc import Callable
from math import ldexp

import torch
from torch import Tensor, nn

from obverse.distributions import exponential_table, frequencies_from_weights
from obverse.exact import convert, rounding, tables
from obverse.exact.attention import MAX_LENGTH
from obverse.exact.rounding import ACTIVATION_LIMIT
from obverse.gaussian import SCALES, gaussian_frequencies
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.gdn import GDN
from obverse.nn.llama import FeedForward, rotary_2d, rotate
from obverse.nn.masked import MaskedConv2d, causal_taps, checkerboard_taps
from obverse.nn.norms import RMSNorm, UnitNorm
from obverse.nn.resample import area, bicubic
from obverse.nn.rotary import rotary_table
from obverse.selftest.cases import Case, Compute, Results
from obverse.selftest.seeded import fill, integers, uniform


def layer_cases() -> dict[str, Case]:
    """Every case by name."""
    groups = (_ROUNDING, _PRODUCTS, _NORMS, _ATTENTION, _CONVOLUTIONS, _FUNCTIONS, _RESAMPLING, _CODER)
    return {name: Case(compute) for group in groups for name, compute in group.items()}


def _values(shape: tuple[int, ...], seed: str) -> Tensor:
    """Float64 in [-1, 1), every 13th of the last axis 64 times larger."""
    values = uniform(shape, seed).double()
    values[..., ::13] *= 64
    return values


def _exact(layer: nn.Module, device: torch.device) -> nn.Module:
    """The exact form of a layer with seeded weights."""
    fill(layer, type(layer).__name__)
    for part in layer.modules():
        if isinstance(part, GDN):
            part.gamma.data.abs_()
    return convert(layer).to(device)


def _applied(make: Callable[[], nn.Module], *shape: int) -> Compute:
    """A layer on seeded numbers."""

    def compute(device: torch.device) -> Results:
        x = _values(shape, str(shape)).to(device)
        return {"": [_exact(make(), device)(x)]}

    return compute


def _pointwise(function: Callable[[Tensor], Tensor] | nn.Module) -> Compute:
    """A function of one number at zero, at the ends of its table, between its points, and far away."""

    def compute(device: torch.device) -> Results:
        powers = torch.tensor([ldexp(1, k) for k in range(-300, 301, 7)], dtype=torch.float64)
        ends = torch.tensor([8.0, 32.0, 40.0, 700.0], dtype=torch.float64)
        points = torch.cat([powers, ends, ends - 2.0**-40, ends + 2.0**-40, _values((3000,), "points") * 40])
        exact = _exact(function, device) if isinstance(function, nn.Module) else function
        return {"": [exact(torch.cat([points, -points, torch.zeros(1, dtype=torch.float64)]).to(device))]}

    return compute


def _constant(make: Callable[[], list[Tensor]]) -> Compute:
    """Numbers that are made without a device."""
    return lambda device: {"": make()}


def _rounded(device: torch.device) -> Results:
    x = _spread((40, 33)).to(device)
    integers, unit = rounding.to_integers(x)
    power, inverse = rounding.power_of_two(x.abs(), -14)
    return {"": [integers, unit, power, inverse, rounding.snap(x, 19), rounding.snap_to(x, 2.0**-13, 23)]}


def _spread(shape: tuple[int, int]) -> Tensor:
    """Rows of very different magnitudes, the first one zero."""
    scales = [0.0] + [ldexp(1, 12 * row - 240) for row in range(1, shape[0])]
    return _values(shape, "spread") * torch.tensor(scales, dtype=torch.float64)[:, None]


def _roots(device: torch.device) -> Results:
    numbers = _values((30000,), "roots"), _spread((40, 33))
    return {"": [rounding.square_root(x.abs().to(device)) for x in numbers]}


_ROUNDING: dict[str, Compute] = {"rounding": _rounded, "square-root": _roots}


def _limits(device: torch.device) -> Results:
    """Sums as large as they can be, of one sign and of two."""
    depth = 2049
    weight, x = torch.full((3, depth), 1.0), torch.full((2, depth), float(ACTIVATION_LIMIT), dtype=torch.float64)
    weight[1], weight[2, ::2], x[1, 1::2] = -1.0, -1.0, -float(ACTIVATION_LIMIT)
    layer = nn.Linear(depth, 3, bias=False)
    layer.weight.data.copy_(weight * (1 - 2.0**-13))
    return {"": [convert(layer).to(device)(x.to(device))]}


def _magnitudes(device: torch.device) -> Results:
    return {"": [_exact(nn.Linear(33, 21), device)(_spread((40, 33)).to(device))]}


def _row_by_row(device: torch.device) -> Results:
    layer = _exact(nn.Linear(768, 96), device)
    x = _values((40, 768), "rows").to(device)
    return {"at once": [layer(x)], "row by row": [torch.cat([layer(row) for row in torch.split(x, 1)])]}


def _embedded(device: torch.device) -> Results:
    return {"": [_exact(nn.Embedding(50, 9), device)(integers((4, 6), 50, "embedding").to(device))]}


_PRODUCTS: dict[str, Compute] = {
    "linear": _applied(lambda: nn.Linear(37, 29), 2, 5, 37),
    "linear-deep": _applied(lambda: nn.Linear(5001, 19, bias=False), 3, 5001),
    "linear-wide": _applied(lambda: nn.Linear(64, 1500), 1200, 64),
    "linear-rows": _row_by_row,
    "linear-limits": _limits,
    "linear-magnitudes": _magnitudes,
    "embedding": _embedded,
    "feed-forward": _applied(lambda: FeedForward(40, 96), 2, 7, 40),
}

_NORMS: dict[str, Compute] = {
    "rms-norm": _applied(lambda: RMSNorm(131), 5, 131),
    "rms-norm-wide": _applied(lambda: RMSNorm(2**15), 3, 2**15),
    "rms-norm-magnitudes": lambda device: {"": [_exact(RMSNorm(33), device)(_spread((40, 33)).to(device))]},
    "layer-norm": _applied(lambda: nn.LayerNorm(131), 5, 131),
    "layer-norm-plain": _applied(lambda: nn.LayerNorm(48, elementwise_affine=False), 5, 48),
    "unit-norm": _applied(UnitNorm, 2, 5, 32),
}


def _attention(
    queries: int, length: int, scale: float | None = None, causal: bool = False, mask: Tensor | None = None
) -> Compute:
    def compute(device: torch.device) -> Results:
        attend, q, k, v = _attention_inputs(queries, length, device)
        seen = None if mask is None else mask.to(device)
        return {"": [attend(q, k, v, scale=scale, causal=causal, mask=seen)]}

    return compute


def _attention_inputs(queries: int, length: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The layer, and q, k, v [2, 3, T, 20] with keys and values as they are kept; some values are cut."""
    attend = convert(Attend()).to(device)
    q = _values((2, 3, queries, 20), "queries").to(device)
    k, v = (_values((2, 3, length, 20), name).to(device) for name in ("keys", "values"))
    v[..., ::7, :] *= 40
    return attend, q, attend.keys(k), attend.values(v)


def _cached_attention(device: torch.device) -> Results:
    length = 24
    attend, q, k, v = _attention_inputs(length, length, device)
    cache = KeyValueCache(2, 3, length, 20, q)
    steps = [attend(q[:, :, t : t + 1], *cache.append(k[:, :, t : t + 1], v[:, :, t : t + 1])) for t in range(length)]
    return {"causal": [attend(q, k, v, causal=True)], "cached": [torch.cat(steps, 2)]}


_ATTENTION: dict[str, Compute] = {
    "attention": _attention(11, 17),
    "attention-scale": _attention(11, 17, scale=1 / 32),
    "attention-causal": _attention(300, 300, causal=True),
    "attention-mask": _attention(15, 15, mask=causal_taps(15) | torch.eye(15, dtype=torch.bool)),
    "attention-long": _attention(2, MAX_LENGTH),
    "attention-cached": _cached_attention,
}


def _masked(taps: Tensor) -> Compute:
    """A masked convolution of a whole grid, and of its cells one by one."""

    def compute(device: torch.device) -> Results:
        layer = _exact(MaskedConv2d(6, 9, taps), device)
        margin = len(taps) // 2
        x = _values((2, 6, 5, 7), "masked").to(device)
        padded = nn.functional.pad(x, (margin,) * 4)
        cells = [
            layer(padded[:, :, row : row + len(taps), column : column + len(taps)], padded=False)
            for row in range(5)
            for column in range(7)
        ]
        return {"at once": [layer(x)], "cell by cell": [torch.cat(cells, 3).view(2, 9, 5, 7)]}

    return compute


def _doubled(kernel: int, output_padding: int) -> Callable[[], nn.Module]:
    padding = (kernel - 1) // 2
    return lambda: nn.ConvTranspose2d(7, 5, kernel, stride=2, padding=padding, output_padding=output_padding)


_CONVOLUTIONS: dict[str, Compute] = {
    "conv": _applied(lambda: nn.Conv2d(5, 11, 3, padding=1), 2, 5, 9, 7),
    "conv-pointwise": _applied(lambda: nn.Conv2d(37, 20, 1), 2, 37, 3, 5),
    "conv-pointwise-strided": _applied(lambda: nn.Conv2d(6, 8, 1, stride=(2, 3)), 2, 6, 7, 8),
    "conv-strided": _applied(lambda: nn.Conv2d(6, 8, 5, stride=2, padding=2), 2, 6, 11, 8),
    "conv-dilated": _applied(lambda: nn.Conv2d(6, 8, 3, padding=2, dilation=2, bias=False), 2, 6, 9, 8),
    "conv-uneven": _applied(lambda: nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 1)), 2, 4, 9, 8),
    "conv-grouped": _applied(lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3), 2, 6, 5, 6),
    "conv-depthwise": _applied(lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), 2, 8, 6, 7),
    "conv-large": _applied(lambda: nn.Conv2d(64, 6, 3, padding=1), 1, 64, 90, 90),
    "conv-causal": _masked(causal_taps(5)),
    "conv-checkerboard": _masked(checkerboard_taps(5)),
    "conv-transposed": _applied(_doubled(5, 1), 2, 7, 4, 6),
    "conv-transposed-even": _applied(_doubled(4, 0), 2, 7, 4, 6),
    "gdn": _applied(lambda: GDN(20), 2, 20, 5, 6),
    "gdn-inverse": _applied(lambda: GDN(20, inverse=True), 2, 20, 5, 6),
    "pixel-shuffle": _applied(lambda: nn.PixelShuffle(2), 2, 8, 3, 4),
}


def _rotated(device: torch.device) -> Results:
    cells = torch.arange(30, device=device)
    flat = rotary_table(30, 16, 500000.0).to(device)
    grid = rotary_2d(cells // 6, cells % 6, 32)
    x = _values((2, 3, 30, 32), "rotated").to(device)
    return {"": [flat, grid, rotate(x, flat), rotate(x, grid)]}


_FUNCTIONS: dict[str, Compute] = {
    "silu": _pointwise(nn.SiLU()),
    "gelu": _pointwise(nn.GELU()),
    "gelu-tanh": _pointwise(nn.GELU(approximate="tanh")),
    "sigmoid": _pointwise(nn.Sigmoid()),
    "tanh": _pointwise(nn.Tanh()),
    "softplus": _pointwise(nn.Softplus()),
    "relu": _pointwise(nn.ReLU()),
    "leaky-relu": _pointwise(nn.LeakyReLU()),
    "exp": _pointwise(tables.exp),
    "normal-cdf": _pointwise(tables.normal_cdf),
    "softmax-table": _constant(lambda: [tables.softmax_table()]),
    "rotary-table": _constant(lambda: [rotary_table(1000, 12)]),
    "rotary": _rotated,
}


def _resampled(resample: Callable[[Tensor, int, int], Tensor], *sizes: tuple[int, int]) -> Compute:
    def compute(device: torch.device) -> Results:
        x = _values((2, 3, 7, 8), "resampled").to(device)
        return {"": [resample(x, *size) for size in sizes]}

    return compute


_RESAMPLING: dict[str, Compute] = {
    "area": _resampled(area, (1, 1), (2, 3), (5, 8)),
    "bicubic": _resampled(bicubic, (7, 8), (13, 16), (3, 5)),
}


def _frequencies(device: torch.device) -> Results:
    weights = integers((20, 500), 2**16, "weights") << integers((20, 1), 20, "shifts")
    return {"": [frequencies_from_weights((weights + 1).to(device))]}


def _gaussians() -> list[Tensor]:
    families = [gaussian_frequencies(index) for index in range(len(SCALES))]
    return [torch.tensor([first for first, _ in families]), *(torch.tensor(some) for _, some in families)]


_CODER: dict[str, Compute] = {
    "frequencies": _frequencies,
    "categorical-table": _constant(lambda: [exponential_table()]),
    "gaussian-tables": _constant(_gaussians),
}
