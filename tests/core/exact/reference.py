"""A second definition of the exact arithmetic, version 1, for people who port it: docs/exactness.md, line by line.

Written from that page alone, without torch and for reading rather than speed. Its means are few, so that each can be
found in any language: 64-bit integers for sums, one IEEE 754 operation at a time (`+ - * / sqrt`) on float64, powers of
two through exponents, and `decimal` and `fractions` for the tables. There are no sums of floats, but in
`interpolation`, where the page gives their order, and no function of a mathematical library.

Shape notation:
    B batch, C channels, H x W picture, K length of a row, N rows of a matrix, T positions, d head width;
    "..." any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Pair = tuple[int, int]
Terms = list[list[tuple[int, Fraction]]]
"""For each cell of a result the terms of its sum in their order: places in the input and weights."""

DIGITS = Context(prec=70)


# The arithmetic, version 1


def power_of_two(e: Integers) -> Floats:
    """2^e, exactly."""
    return np.ldexp(1.0, e)


def exponent(m: Floats) -> Integers:
    """floor(log2(m + 2^-200)), from the exponent bits of the sum: that of frexp is one more (fractions from 1/2)."""
    return np.frexp(m + power_of_two(np.int64(-200)))[1].astype(np.int64) - 1


def rounded(x: Floats) -> Integers:
    """To the nearest whole number, halves to even."""
    return np.rint(x).astype(np.int64)


def largest(x: Floats, axes: tuple[int, ...]) -> Floats:
    """The largest magnitude m of each group; a group is what the axes span, and they stay, with length one."""
    return np.max(np.abs(x), axis=axes, keepdims=True)


def integers_of_activations(x: Floats, axes: tuple[int, ...]) -> tuple[Integers, Floats]:
    """q with the shape of x, and the unit u of each group, with length one on its axes."""
    u = power_of_two(exponent(largest(x, axes) * (1 + 2**-7)) - 14)
    return rounded(x / u), u


def integers_of_weights(w: Floats) -> tuple[Integers, Floats]:
    """q [N, K] and the unit u [N] of each row of w [N, K]."""
    u = power_of_two(exponent(largest(w, (-1,))) - 12)
    return rounded(w / u), u[:, 0]


def snapped(x: Floats, bits: int) -> tuple[Integers, Floats]:
    """Snapping of the last axis: x' = q * u, returned as the integers q [..., K] and the unit u [..., 1]."""
    u = power_of_two(exponent(largest(x, (-1,))) + 1 - bits)
    return rounded(x / u), u


# Products


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """x [..., K], weight [N, K], bias [N] -> [..., N]."""
    q_x, u_x = integers_of_activations(x, (-1,))
    q_w, u_w = integers_of_weights(weight)
    y = ((q_x @ q_w.T).astype(np.float64) * u_x) * u_w
    return y if bias is None else y + bias


def patches(x: NDArray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> NDArray:
    """What each cell of the result sees of x [B, C, H, W], zeros outside: [B, C, kh, kw, H', W']."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    result = np.empty((*x.shape[:2], kh, kw, height, width), x.dtype)
    for i in range(kh):
        for j in range(kw):
            rows = slice(dh * i, dh * i + sh * (height - 1) + 1, sh)
            columns = slice(dw * j, dw * j + sw * (width - 1) + 1, sw)
            result[:, :, i, j] = x[:, :, rows, columns]
    return result


def convolution(
    x: Floats,
    weight: Floats,
    bias: Floats | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Floats:
    """x [B, C, H, W], weight [N, C / groups, kh, kw], bias [N] -> [B, N, H', W']."""
    one_cell = weight.shape[2:] == (1, 1) and padding == (0, 0)
    q_x, u_x = integers_of_activations(x, (1,) if one_cell else (1, 2, 3))
    u_x = u_x[:, :, :: stride[0], :: stride[1]]
    q_w, u_w = integers_of_weights(weight.reshape(len(weight), -1))
    seen = patches(q_x, weight.shape[2:], stride, padding, dilation)
    batch, (height, width) = len(x), seen.shape[-2:]
    seen = seen.reshape(batch, groups, -1, height * width)
    sums = q_w.reshape(groups, len(weight) // groups, -1) @ seen
    y = (sums.reshape(batch, -1, height, width).astype(np.float64) * u_w[:, None, None]) * u_x
    return y if bias is None else y + bias[:, None, None]


def masked_convolution(
    x: Floats, weight: Floats, bias: Floats | None, visible: Booleans, *, padding: Pair = (0, 0)
) -> Floats:
    """x [B, C, H, W], weight [N, C, kh, kw], bias [N], visible [kh, kw] -> [B, N, H', W']: linear on visible taps."""
    seen = patches(x, weight.shape[2:], (1, 1), padding, (1, 1))
    seen = np.moveaxis(seen[:, :, visible], (1, 2), (-2, -1))
    rows = seen.reshape(*seen.shape[:3], -1)
    return np.moveaxis(linear(rows, weight[:, :, visible].reshape(len(weight), -1), bias), -1, 1)


def transposed_convolution(
    x: Floats,
    weight: Floats,
    bias: Floats | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
) -> Floats:
    """x [B, C, H, W], weight [C, N, kh, kw], bias [N] -> [B, N, H', W'].

    Each cell of x adds a patch of kh x kw to the result, `stride` apart; `padding` is cut from all sides, and
    `output_padding` more rows and columns stay at the end.
    """
    (batch, channels, height, width), (kh, kw) = x.shape, weight.shape[2:]
    (sh, sw), (ph, pw), (oh, ow) = stride, padding, output_padding
    q_x, u_x = integers_of_activations(x, (1, 2, 3))
    q_w, u_w = integers_of_weights(weight.swapaxes(0, 1).reshape(-1, channels * kh * kw))
    q_w = q_w.reshape(-1, channels, kh, kw)
    full = (sh * (height - 1) + kh + oh, sw * (width - 1) + kw + ow)
    sums = np.zeros((batch, len(q_w), *full), np.int64)
    for i in range(kh):
        for j in range(kw):
            rows, columns = slice(i, i + sh * (height - 1) + 1, sh), slice(j, j + sw * (width - 1) + 1, sw)
            products = q_w[:, :, i, j] @ q_x.reshape(batch, channels, -1)
            sums[:, :, rows, columns] += products.reshape(batch, -1, height, width)
    sums = sums[:, :, ph : full[0] - ph, pw : full[1] - pw]
    y = (sums.astype(np.float64) * u_w[:, None, None]) * u_x
    return y if bias is None else y + bias[:, None, None]


def gdn(x: Floats, gamma: Floats, beta: Floats, *, inverse: bool = False) -> Floats:
    """x [B, C, H, W], gamma [C, C], beta [C] -> [B, C, H, W]."""
    cells = np.moveaxis(x, 1, -1)
    n = np.sqrt(linear(cells * cells, gamma, beta))
    return np.moveaxis(cells * n if inverse else cells / n, -1, 1)


# Norms


def sum_of_squares(x: Floats) -> Floats:
    """S(x), [..., K] -> [..., 1]."""
    q, u = snapped(x, 19)
    return np.sum(q * q, axis=-1, keepdims=True).astype(np.float64) * (u * u)


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x [..., K], weight [K] -> [..., K]."""
    k = 1 / x.shape[-1]
    return (x / np.sqrt(sum_of_squares(x) * k + eps)) * weight


def layer_norm(x: Floats, weight: Floats | None, bias: Floats | None, eps: float) -> Floats:
    """x [..., K], weight and bias [K] -> [..., K]."""
    k = 1 / x.shape[-1]
    q, u = snapped(x, 38)
    s = np.sum(q, axis=-1, keepdims=True).astype(np.float64) * u
    c = x - s * k
    y = c / np.sqrt(sum_of_squares(c) * k + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def unit_norm(x: Floats, eps: float) -> Floats:
    """x [..., K] -> [..., K]."""
    return x / np.maximum(np.sqrt(sum_of_squares(x)), eps)


# Attention


@cache
def weights_of_distances() -> Integers:
    """round(2^16 * exp(-d / 4096)) for d = 0, 1, .. up to and with the first zero."""
    weights = [2**16]
    with localcontext(DIGITS):
        while weights[-1] > 0:
            weight = 2**16 * (Decimal(-len(weights)) / 4096).exp()
            weights.append(int(weight.to_integral_value(ROUND_HALF_EVEN)))
    return np.array(weights, np.int64)


def attention(q: Floats, k: Floats, v: Floats, seen: Booleans, scale: float | None = None) -> Floats:
    """q [..., T, d], k [..., T', d], v [..., T', d'], seen [..., T, T'] -> [..., T, d']."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    (queries, u_q), (keys, u_k) = snapped(q, 15), snapped(k, 15)
    products = (queries @ keys.swapaxes(-1, -2)).astype(np.float64) * (u_q * u_k.swapaxes(-1, -2))
    s = np.where(seen, np.rint(products * (4096 * scale)), -np.inf)
    distance = np.max(s, axis=-1, keepdims=True) - s
    table = weights_of_distances()
    w = table[np.minimum(distance, len(table) - 1).astype(np.int64)]
    values = np.clip(np.rint(v * 2.0**13), -(2.0**23), 2.0**23).astype(np.int64)
    return ((w @ values).astype(np.float64) * 2.0**-13) / np.sum(w, axis=-1, keepdims=True).astype(np.float64)


def causal(length: int) -> Booleans:
    """[T, T]: each position sees itself and what is before it."""
    return np.tril(np.ones((length, length), np.bool_))


# Functions


def multiples(values: Sequence[Decimal], bits: int) -> Floats:
    """Values rounded to multiples of 2^-bits."""
    with localcontext(DIGITS):
        whole = [int((value * 2**bits).to_integral_value(ROUND_HALF_EVEN)) for value in values]
    return np.ldexp(np.array(whole, np.int64).astype(np.float64), -bits)


def points(low: int, high: int) -> list[Decimal]:
    """The multiples of 1/128 from low to high."""
    return [Decimal(i) / 128 for i in range(128 * low, 128 * high + 1)]


@cache
def pi() -> Decimal:
    """Machin's formula: 16 arctan(1/5) - 4 arctan(1/239)."""
    one = 10**90

    def arctan_of_inverse(x: int) -> int:
        return sum((-1) ** n * one // ((2 * n + 1) * x ** (2 * n + 1)) for n in range(70))

    with localcontext(DIGITS):
        return Decimal(16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) / one


def half_normal(x: Decimal) -> Decimal:
    """P(0 < X < x) of the standard normal, x >= 0: density(x) * (x + x^3/3 + x^5/(3*5) + x^7/(3*5*7) + ..)."""
    total, term, odd = Decimal(0), x, 1
    while term > Decimal("1e-65"):
        total, odd = total + term, odd + 2
        term = term * x * x / odd
    return total * (-x * x / 2).exp() / (2 * pi()).sqrt()


@cache
def sigmoid_table() -> Floats:
    """From -40 to 40."""
    with localcontext(DIGITS):
        right = multiples([1 / (1 + (-x).exp()) for x in points(0, 40)], 52)
    return np.concatenate([1 - right[:0:-1], right])


@cache
def normal_table() -> Floats:
    """From -8 to 8; its ends are 0 and 1."""
    with localcontext(DIGITS):
        half = [half_normal(x) for x in points(0, 8)]
        half[-1] = Decimal("0.5")
        return multiples([Decimal("0.5") - h for h in half[:0:-1]] + [Decimal("0.5") + h for h in half], 52)


@cache
def softplus_table() -> Floats:
    """l(x) = ln(1 + exp(-x)) from 0 to 32."""
    with localcontext(DIGITS):
        return multiples([(1 + (-x).exp()).ln() for x in points(0, 32)], 52)


@cache
def power_table() -> Floats:
    """2^x from 0 to 1."""
    with localcontext(DIGITS):
        return multiples([(x * Decimal(2).ln()).exp() for x in points(0, 1)], 52)


def interpolated(table: Floats, x: Floats, low: float, high: float) -> Floats:
    """f_i + (f_(i+1) - f_i) * (p - i); the last point has nothing behind it and needs nothing."""
    p = (np.clip(x, low, high) - low) * 128
    i = np.floor(p)
    here = i.astype(np.int64)
    f, following = table[here], table[np.minimum(here + 1, len(table) - 1)]
    return f + (following - f) * (p - i)


def sigmoid(x: Floats) -> Floats:
    return interpolated(sigmoid_table(), x, -40.0, 40.0)


def normal(x: Floats) -> Floats:
    return interpolated(normal_table(), x, -8.0, 8.0)


def silu(x: Floats) -> Floats:
    return sigmoid(x) * x


def gelu(x: Floats) -> Floats:
    return normal(x) * x


def gelu_tanh(x: Floats) -> Floats:
    return sigmoid((((x * x) * x) * 0.044715 + x) * 1.5957691216057308) * x


def tanh(x: Floats) -> Floats:
    return sigmoid(x * 2) * 2 - 1


def softplus(x: Floats) -> Floats:
    return np.maximum(x, 0.0) + interpolated(softplus_table(), np.abs(x), 0.0, 32.0)


def exp(x: Floats) -> Floats:
    t = np.clip(x, -700.0, 700.0) * 1.4426950408889634
    whole = np.floor(t)
    return power_of_two(whole.astype(np.int64)) * interpolated(power_table(), t - whole, 0.0, 1.0)


def relu(x: Floats) -> Floats:
    return np.where(x > 0, x, 0.0)


def leaky_relu(x: Floats, slope: float) -> Floats:
    return np.where(x > 0, x, x * slope)


def embedding(tokens: Integers, weight: Floats) -> Floats:
    """Rows of weight [V, K]: tokens [...] -> [..., K]."""
    return weight[tokens]


# Rotary positions


def cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Cosine and sine, by their series after reduction to one turn."""
    x = angle - 2 * pi() * (angle / (2 * pi())).to_integral_value()
    sums, term, order = [Decimal(0), Decimal(0)], Decimal(1), 0
    while abs(term) > Decimal("1e-60") or order < 4:
        sums[order % 2] += term if order % 4 < 2 else -term
        order += 1
        term = term * x / order
    return sums[0], sums[1]


def rotary_table(length: int, n: int, base: float) -> Floats:
    """Cosine and sine of p * base^(-i / n) for positions p and frequencies i: [length, n, 2]."""
    with localcontext(DIGITS):
        frequencies = [(-Decimal(base).ln() * i / n).exp() for i in range(n)]
        table = [part for p in range(length) for frequency in frequencies for part in cos_sin(p * frequency)]
    return multiples(table, 48).reshape(length, n, 2)


def rotate(x: Floats, table: Floats) -> Floats:
    """Turn the pairs (a, b) of neighbours in x [..., T, d] by the angles of table [T, d / 2, 2]."""
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], table[..., 0], table[..., 1]
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


# Resampling


def area(length: int, size: int) -> Terms:
    """The cells of the input that a cell of the result touches, with equal weights."""
    spans = [range(o * length // size, -(-(o + 1) * length // size)) for o in range(size)]
    return [[(place, Fraction(1, len(span))) for place in span] for span in spans]


def cubic(x: Fraction) -> Fraction:
    """The kernel of bicubic interpolation at distance x, a = -3/4."""
    a, x = Fraction(-3, 4), abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


def bicubic(length: int, size: int) -> Terms:
    """Four neighbours of a centre; for those outside stands the cell at the border, once for each."""
    result = []
    for o in range(size):
        centre = (o + Fraction(1, 2)) * length / size - Fraction(1, 2)
        places = range(math.floor(centre) - 1, math.floor(centre) + 3)
        result.append([(min(max(place, 0), length - 1), cubic(centre - place)) for place in places])
    return result


def interpolation(x: Floats, terms: Terms) -> Floats:
    """Along the last axis: [..., length] -> [..., size]."""
    cells = []
    for row in terms:
        total = np.zeros(x.shape[:-1])
        for place, weight in row:
            total = total + float(weight) * x[..., place]
        cells.append(total)
    return np.stack(cells, axis=-1)


def resample(x: Floats, size: Pair, mode: str) -> Floats:
    """x [..., H, W] -> [..., *size]."""
    terms = {"area": area, "bicubic": bicubic}[mode]
    x = interpolation(x, terms(x.shape[-1], size[1]))
    return interpolation(x.swapaxes(-1, -2), terms(x.shape[-2], size[0])).swapaxes(-1, -2)


# Between network and coder


def integer_logits(logits: Floats) -> Integers:
    """round(8 x), limited to 2^30 in magnitude."""
    return np.clip(np.rint(logits * 8), -(2.0**30), 2.0**30).astype(np.int64)


def scale_indices(scales: Floats, tables: Sequence[int]) -> Integers:
    """Indices of the tables, whose scales are in units of 1/65536: one more for each border that a scale is above."""
    borders = [math.isqrt(below * above) for below, above in pairwise(tables)]
    return np.sum(scales[..., None] * 65536 > np.array(borders, np.float64), axis=-1)


# Whole networks


def heads_of(x: Floats, heads: int) -> Floats:
    """[B, T, heads * d] -> [B, heads, T, d]."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def rotary_2d(rows: Integers, columns: Integers, head_dim: int, base: float = 10000.0) -> Floats:
    """The first half of the pairs turns with the row, the second with the column: [T] each -> [T, d / 2, 2]."""
    table = rotary_table(int(max(rows.max(), columns.max())) + 1, head_dim // 4, base)
    return np.concatenate([table[rows], table[columns]], axis=1)


def llama(
    inputs: Floats, rotary: Floats, weights: Mapping[str, Floats], *, layers: int, heads: int, eps: float
) -> Floats:
    """The decoder of obverse.nn.llama in one pass: inputs [B, T, D], rotary [T, d / 2, 2] -> logits [B, T, V]."""
    x = inputs
    for index in range(layers):
        layer = f"layers.{index}"
        h = rms_norm(x, weights[f"{layer}.attention_norm.weight"], eps)
        qkv = linear(h, weights[f"{layer}.attention.wqkv.weight"])
        q, k, v = (heads_of(part, heads) for part in np.split(qkv, 3, axis=-1))
        y = attention(rotate(q, rotary), rotate(k, rotary), v, causal(x.shape[1]))
        x = x + linear(y.swapaxes(1, 2).reshape(x.shape), weights[f"{layer}.attention.wo.weight"])

        h = rms_norm(x, weights[f"{layer}.ffn_norm.weight"], eps)
        gate = silu(linear(h, weights[f"{layer}.feed_forward.w1.weight"]))
        h = gate * linear(h, weights[f"{layer}.feed_forward.w3.weight"])
        x = x + linear(h, weights[f"{layer}.feed_forward.w2.weight"])
    return linear(rms_norm(x, weights["norm.weight"], eps), weights["output.weight"])


def hyper_synthesis(z: Floats, weights: Mapping[str, Floats], slope: float) -> tuple[Floats, Floats]:
    """z [B, N, h, w] -> mean and scale [B, M, 4 h, 4 w]: two transposed convolutions and a convolution."""
    x = z
    for name in ("0", "2"):
        x = transposed_convolution(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=(2, 2), padding=(2, 2), output_padding=(1, 1)
        )
        x = leaky_relu(x, slope)
    mean, scale = np.split(convolution(x, weights["4.weight"], weights["4.bias"], padding=(1, 1)), 2, axis=1)
    return mean, softplus(scale)
