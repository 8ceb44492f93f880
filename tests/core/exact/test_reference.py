"""The exact layers against a second definition, written from docs/exactness.md: the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from core.exact import reference
from core.exact.reference import Floats
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from obverse.distributions import IntegerGaussian, to_grid
from obverse.exact import convert, tables
from obverse.gaussian import SCALES
from obverse.nn import resample
from obverse.nn.attention import Attend
from obverse.nn.gdn import GDN
from obverse.nn.llama import Llama, rotary_2d
from obverse.nn.masked import MaskedConv2d, causal_taps, checkerboard_taps
from obverse.nn.norms import RMSNorm, UnitNorm
from obverse.nn.rotary import rotary_table
from obverse.selftest.seeded import fill, integers, uniform

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def values(seed: int, *shape: int, spread: int = 6) -> Floats:
    """Numbers of many magnitudes with all bits in use; the first row is zero, the last one has an outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    flat = x.reshape(-1, shape[-1])
    if len(flat) > 2:
        flat[0] = 0
        flat[-1, seed % shape[-1]] = 2.0**20 * rng.standard_normal()
    return x


def array(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else tensor.detach().double().numpy()


def weights_of(module: nn.Module) -> dict[str, Floats]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


@torch.inference_mode()
def result(layer: Callable[..., Tensor], *inputs: Floats) -> Floats:
    return layer(*map(torch.from_numpy, inputs)).numpy()


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


# The rounding itself


@quick
@given(st.integers(-30, 30) | st.sampled_from([-250, -201, -200, -199, 250]), st.integers(-3, 3), seeds)
def test_units_at_powers_of_two(power: int, steps: int, seed: int) -> None:
    """The largest magnitude around where its unit changes, with and without the headroom; and halves among the rest."""
    weight = torch.from_numpy(values(seed, 3, 4))
    for border in (2.0**power, 2.0**power / (1 + 2**-7), 2.0**power * 127 / 128):
        largest = border
        for _ in range(abs(steps)):
            largest = np.nextafter(largest, np.inf if steps > 0 else 0)
        halves = np.array([2.0**-15, 3 * 2.0**-15, 5 * 2.0**-15]) * 2.0**power
        x = np.array([[largest, *halves], [-largest, *-halves], [-largest, *halves / 2]])
        layer = nn.Linear(4, 3, bias=False).double()
        layer.weight.data = weight
        same(result(convert(layer), x), reference.linear(x, weight.numpy()))
        layer.weight.data = torch.from_numpy(x)
        same(result(convert(layer), weight.numpy()), reference.linear(weight.numpy(), x))
        same(result(convert(UnitNorm()), x), reference.unit_norm(x, 1e-12))
        shape = (1, 1, *x.shape)
        q, k, v = x.reshape(shape), values(seed, *shape), values(seed + 1, *shape)
        same(attended(q, k, v), reference.attention(q, k, v, np.ones((3, 3), bool)))


# Products


@quick
@given(seeds, st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_linear(seed: int, inputs: int, outputs: int, bias: bool) -> None:
    layer = fill(nn.Linear(inputs, outputs, bias=bias), str(seed))
    x = values(seed, 2, 3, inputs)
    same(result(convert(layer), x), reference.linear(x, array(layer.weight), array(layer.bias)))


def test_linear_with_many_terms_zero_rows_and_outliers() -> None:
    layer = fill(nn.Linear(2500, 39), "many")
    layer.weight.data[1] = 0
    layer.weight.data[2, 7] = 1e4
    layer.weight.data[3] = layer.weight.data[3].sign() * 8192 * 2**-12  # the largest integers, all of one sign
    x = values(1, 6, 2500)
    x[1] = np.sign(array(layer.weight)[3]) * 127.99
    same(result(convert(layer), x), reference.linear(x, array(layer.weight), array(layer.bias)))


@pytest.mark.parametrize(
    ("groups", "kernel", "stride", "padding", "dilation"),
    [
        (1, (3, 3), (1, 1), (1, 1), (1, 1)),
        (1, (1, 1), (1, 1), (0, 0), (1, 1)),
        (2, (5, 2), (2, 1), (2, 0), (1, 3)),
        (3, (3, 4), (3, 2), (0, 5), (2, 1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(
    groups: int, kernel: Sequence, stride: Sequence, padding: Sequence, dilation: Sequence, bias: bool
):
    layer = fill(nn.Conv2d(6, 9 * groups, kernel, stride, padding, dilation, groups, bias), f"{kernel}")
    x = values(groups, 3, 6, 11, 13)
    x[1] *= 1000  # a unit of its own
    expected = reference.convolution(
        x,
        array(layer.weight),
        array(layer.bias),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    same(result(convert(layer), x), expected)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("taps", [causal_taps, checkerboard_taps])
@pytest.mark.parametrize("padded", [True, False])
def test_masked_convolution(taps: Callable[[int], Tensor], kernel: int, padded: bool) -> None:
    layer = fill(MaskedConv2d(5, 7, taps(kernel)), "masked")
    layer.weight.data[:, :, kernel // 2, kernel // 2] = 1e3  # hidden: not in the unit
    x = values(kernel, 2, 5, 8, 7)
    padding = (kernel // 2 * padded,) * 2
    expected = reference.masked_convolution(
        x, array(layer.weight), array(layer.bias), taps(kernel).numpy(), padding=padding
    )
    same(result(lambda some: convert(layer)(some, padded), x), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [
        ((5, 5), (2, 2), (2, 2), (1, 1)),
        ((4, 4), (2, 2), (1, 1), (0, 0)),
        ((3, 2), (3, 1), (0, 1), (2, 0)),
        ((1, 3), (2, 4), (0, 0), (1, 3)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution(
    kernel: Sequence, stride: Sequence, padding: Sequence, output_padding: Sequence, bias: bool
) -> None:
    layer = fill(nn.ConvTranspose2d(6, 5, kernel, stride, padding, output_padding, bias=bias), f"{kernel}")
    x = values(3, 2, 6, 5, 7)
    expected = reference.transposed_convolution(
        x, array(layer.weight), array(layer.bias), stride=stride, padding=padding, output_padding=output_padding
    )
    same(result(convert(layer), x), expected)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn(inverse: bool) -> None:
    layer = fill(GDN(9, inverse), "gdn")
    layer.gamma.data.abs_()
    x = values(4, 2, 9, 5, 3)
    same(result(convert(layer), x), reference.gdn(x, array(layer.gamma), array(layer.beta), inverse=inverse))


def test_embedding() -> None:
    layer = fill(nn.Embedding(11, 7), "embedding")
    tokens = integers((3, 5), 11, "tokens").numpy()
    same(result(convert(layer), tokens), reference.embedding(tokens, array(layer.weight)))


# Norms


@quick
@given(seeds, st.integers(1, 70), st.integers(0, 100))
def test_norms(seed: int, size: int, spread: int) -> None:
    x = values(seed, 3, 2, size, spread=spread)
    root = fill(RMSNorm(size), "rms")
    layer = fill(nn.LayerNorm(size, eps=1e-6), "layer")
    same(result(convert(root), x), reference.rms_norm(x, array(root.weight), 1e-5))
    same(result(convert(layer), x), reference.layer_norm(x, array(layer.weight), array(layer.bias), 1e-6))
    same(result(convert(nn.LayerNorm(size, elementwise_affine=False)), x), reference.layer_norm(x, None, None, 1e-5))
    same(result(convert(UnitNorm()), x), reference.unit_norm(x, 1e-12))


def test_roots_of_many_rows() -> None:
    x = values(7, 2000, 5)
    same(result(convert(RMSNorm(5)), x), reference.rms_norm(x, np.ones(5), 1e-5))
    same(result(convert(UnitNorm()), x), reference.unit_norm(x, 1e-12))


def test_norms_of_equal_and_of_tiny_values() -> None:
    x = np.stack([np.full(768, 0.1), np.full(768, -1e-70), np.full(768, 2.0**31), np.arange(768) / 3])
    layer = nn.LayerNorm(768)
    same(result(convert(layer), x), reference.layer_norm(x, array(layer.weight), array(layer.bias), 1e-5))
    same(result(convert(RMSNorm(768)), x), reference.rms_norm(x, np.ones(768), 1e-5))
    same(result(convert(UnitNorm()), x), reference.unit_norm(x, 1e-12))


# Attention


def attended(q: Floats, k: Floats, v: Floats, *, mask: np.ndarray | None = None, **options) -> Floats:
    attend = convert(Attend())
    options |= {} if mask is None else {"mask": torch.from_numpy(mask)}
    return result(lambda q, k, v: attend(q, attend.keys(k), attend.values(v), **options), q, k, v)


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 20), st.sampled_from([1, 3, 16, 32, 64, 80]), st.integers(0, 8))
def test_attention(seed: int, queries: int, length: int, width: int, spread: int) -> None:
    q, k = values(seed, 2, 3, queries, width, spread=2), values(seed + 1, 2, 3, length, width, spread=2)
    v = values(seed + 2, 2, 3, length, width, spread=spread)  # some beyond 2^10
    everything = np.ones((queries, length), bool)
    some = np.random.default_rng(seed).random((queries, length)) < 0.5
    some[:, seed % length] = True
    same(attended(q, k, v), reference.attention(q, k, v, everything))
    same(attended(q, k, v, mask=some), reference.attention(q, k, v, some))
    same(attended(q, k, v, scale=0.3, mask=some), reference.attention(q, k, v, some, 0.3))


@pytest.mark.parametrize("scale", [None, 1.0, 0.01])
def test_causal_attention(scale: float | None) -> None:
    q, k, v = (values(seed, 1, 4, 50, 24, spread=1) for seed in range(3))
    same(attended(q, k, v, causal=True, scale=scale), reference.attention(q, k, v, reference.causal(50), scale))


# Functions

FUNCTIONS: list[tuple[nn.Module | Callable[[Tensor], Tensor], Callable[[Floats], Floats]]] = [
    (nn.Sigmoid(), reference.sigmoid),
    (tables.normal_cdf, reference.normal),
    (nn.SiLU(), reference.silu),
    (nn.GELU(), reference.gelu),
    (nn.GELU(approximate="tanh"), reference.gelu_tanh),
    (nn.Tanh(), reference.tanh),
    (nn.Softplus(), reference.softplus),
    (tables.exp, reference.exp),
    (nn.ReLU(), reference.relu),
    (nn.LeakyReLU(), lambda x: reference.leaky_relu(x, 0.01)),
    (nn.LeakyReLU(0.3), lambda x: reference.leaky_relu(x, 0.3)),
]


@pytest.fixture(params=FUNCTIONS, ids=lambda pair: getattr(pair[1], "__name__", "leaky"))
def function(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Callable[[Floats], Floats]]:
    layer, expected = request.param
    return convert(layer) if isinstance(layer, nn.Module) else layer, expected


def test_functions_at_all_points_of_their_tables_and_beside(function: tuple) -> None:
    layer, expected = function
    x = np.arange(-40 * 128, 40 * 128 + 1) / 128
    for some in (x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf), x + 1 / 256, x / 100):
        same(result(layer, some), expected(some))


def test_functions_in_their_tails(function: tuple) -> None:
    layer, expected = function
    tails = [2.0**-1074, 2.0**-1000, 2.0**-60, 2.0**-7, 32, 33.3, 88.7, 699.9, 700, 701, 1e5, 2.0**31, 2.0**63, 1e100]
    x = np.array([0.0, *tails, *(-tail for tail in tails)])
    same(result(layer, x), expected(x))


@given(x=st.lists(st.floats(-1e3, 1e3) | st.floats(-9, 9), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_functions_of_anything(x: list[float]) -> None:
    for layer, expected in FUNCTIONS:
        layer = convert(layer) if isinstance(layer, nn.Module) else layer
        same(result(layer, np.array(x)), expected(np.array(x)))


# Rotary positions and resampling


@pytest.mark.parametrize(("length", "count", "base"), [(1, 1, 10000.0), (300, 8, 10000.0), (40, 5, 123.456)])
def test_rotary_table(length: int, count: int, base: float) -> None:
    same(rotary_table(length, count, base).numpy(), reference.rotary_table(length, count, base))


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 9), (10, 11), (14, 27), (21, 2)])
def test_resampling(size: tuple[int, int]) -> None:
    x = values(5, 2, 3, 7, 9)
    same(resample.area(torch.from_numpy(x), *size).numpy(), reference.resample(x, size, "area"))
    same(resample.bicubic(torch.from_numpy(x), *size).numpy(), reference.resample(x, size, "bicubic"))


# Between network and coder


def test_integer_logits() -> None:
    x = np.concatenate([values(6, 400), np.arange(-64, 64) / 16, [1e300, -1e300]])
    same(to_grid(torch.from_numpy(x)).long().numpy(), reference.integer_logits(x))


def test_scale_indices_at_borders() -> None:
    borders = np.array([math.isqrt(below * above) for below, above in pairwise(SCALES)]) / 65536
    x = np.concatenate([borders, np.nextafter(borders, 0), np.nextafter(borders, 1e9), np.array(SCALES) / 65536])
    x = np.concatenate([x, x + 2**-16, x - 2**-16, [-1, 0, 2.0**-1000, 1e9]])
    same(IntegerGaussian.index(torch.from_numpy(x)).numpy(), reference.scale_indices(x, SCALES))
    assert list(reference.scale_indices(np.array(SCALES) / 65536, SCALES)) == list(range(64))


# Whole networks


@torch.inference_mode()
def test_llama() -> None:
    layers, heads, side = 4, 3, 6
    model = fill(Llama(vocabulary=61, dim=72, layers=layers, heads=heads), "llama", gain=2)
    weights = weights_of(model)
    tokens = integers((2, side * side), 61, "tokens")
    rows = torch.arange(side).repeat_interleave(side)
    columns = torch.arange(side).repeat(side)

    exact = convert(model)
    rotary = rotary_2d(rows, columns, model.head_dim)
    found = exact.output(exact.hidden_states(exact.tok_embeddings(tokens), rotary)).numpy()

    inputs = reference.embedding(tokens.numpy(), weights["tok_embeddings.weight"])
    angles = reference.rotary_2d(rows.numpy(), columns.numpy(), model.head_dim)
    same(rotary.numpy(), angles)
    same(found, reference.llama(inputs, angles, weights, layers=layers, heads=heads, eps=1e-5))
    assert found.std() > 1


@torch.inference_mode()
def test_mean_scale_hyper_synthesis() -> None:
    def double(inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)

    leaky = nn.LeakyReLU()
    model = nn.Sequential(double(8, 12), leaky, double(12, 18), leaky, nn.Conv2d(18, 24, 3, padding=1))
    fill(model, "hyper", gain=4)
    z = (uniform((2, 8, 3, 5), "z") * 12).round().double()
    mean, scale = convert(model)(z).chunk(2, 1)
    scale = convert(nn.Softplus())(scale)

    expected_mean, expected_scale = reference.hyper_synthesis(z.numpy(), weights_of(model), leaky.negative_slope)
    same(mean.numpy(), expected_mean)
    same(scale.numpy(), expected_scale)
    found = IntegerGaussian.index(scale).numpy()
    same(found, reference.scale_indices(expected_scale, SCALES))
    assert len(np.unique(found)) > 20
