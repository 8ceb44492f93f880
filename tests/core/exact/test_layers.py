"""Exact layers are close to float64 ones, by bounds that the number of bits gives, and depend on nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact_numbers import layers as all_layers
from exact_numbers import seeded, values
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact import BACKENDS, convert, use_backend
from obverse.exact import layers as module
from obverse.exact.layers import MAX_NORM, sum_of_squares
from obverse.exact.rounding import square_root
from obverse.nn.gdn import GDN
from obverse.nn.masked import MaskedConv2d, causal_taps, checkerboard_taps
from obverse.nn.norms import RMSNorm, UnitNorm
from obverse.nn.resample import area, bicubic
from obverse.selftest.seeded import integers, uniform
from obverse.threads import threads

LAYERS = all_layers()

# Half a unit, as part of the largest magnitude that shares it.
WEIGHT = 2.0**-13
ACTIVATION = 2.0**-15 * (1 + 2.0**-7)
NORM = 2.0**-19
FLOAT64 = 1e-12  # roundings of float64, in the layers and in the references


@pytest.fixture(params=LAYERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exact(name: str) -> nn.Module:
    return convert(LAYERS[name][0])


def inputs(name: str, batch: int = 7) -> Tensor:
    return values((batch, *LAYERS[name][1][1:]), name)


class TestIndependence:
    def test_of_the_backend(self, name: str) -> None:
        results = []
        for backend in BACKENDS:
            with use_backend(backend):
                results.append(exact(name)(inputs(name)))
        assert all(torch.equal(result, results[0]) for result in results)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_of_the_batch(self, name: str, backend: str) -> None:
        layer, x = exact(name), inputs(name)
        with use_backend(backend):
            whole = layer(x)
            assert all(torch.equal(layer(x[i : i + 1]), whole[i : i + 1]) for i in range(len(x)))

    def test_of_the_order_of_the_batch(self, name: str) -> None:
        layer, x, order = exact(name), inputs(name), torch.tensor([3, 0, 6, 2, 5, 1, 4])
        assert torch.equal(layer(x[order]), layer(x)[order])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_of_the_threads(self, name: str, backend: str) -> None:
        layer, x = exact(name), inputs(name, 40)
        with use_backend(backend):
            one = layer(x)
            with threads(2):
                assert torch.equal(layer(x), one)

    def test_of_the_layout_of_the_input(self, name: str) -> None:
        layer, x = exact(name), inputs(name)
        wanted = layer(x)
        assert torch.equal(layer(x.transpose(0, -1).contiguous().transpose(0, -1)), wanted)
        assert torch.equal(layer(x.repeat_interleave(2, -1)[..., ::2]), wanted)
        if x.ndim == 4:
            assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), wanted)

    def test_the_input_stays(self, name: str) -> None:
        x = inputs(name)
        before = x.clone()
        exact(name)(x)
        assert torch.equal(x, before)

    def test_a_second_time_gives_the_same(self, name: str) -> None:
        layer, x = exact(name), inputs(name)
        assert torch.equal(layer(x), layer(x))


def bare(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The layer in float64 with another weight and without bias."""
    state = {"weight": weight}
    if isinstance(layer.bias, Tensor):
        state["bias"] = torch.zeros_like(layer.bias, dtype=torch.float64)
    if isinstance(layer, MaskedConv2d):
        state["mask"] = layer.mask.double()
    result: Tensor = torch.func.functional_call(layer, state, (x,))
    return result


def check_product(layer: nn.Module, x: Tensor, axis: int = 0) -> None:
    """Within the bound that rounding of weights (one unit per index of `axis`) and of x (one per sample) allows."""
    x = x.double()
    weight = layer.weight.detach().double()
    along = [i for i in range(weight.ndim) if i != axis]
    error = (weight.abs().amax(along, keepdim=True) * WEIGHT).expand_as(weight)
    shared = (-1,) if isinstance(layer, nn.Linear) else (1, 2, 3)
    blur = (x.abs().amax(shared, keepdim=True) * ACTIVATION).expand_as(x)
    bound = bare(layer, error, x.abs()) + bare(layer, weight.abs() + error, blur)
    found = convert(layer)(x)
    wanted = layer.double()(x)
    assert found.dtype == torch.float64
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= bound + FLOAT64 * (1 + wanted.abs())).all()
    assert not torch.equal(found, wanted)


def x_of(*shape: int) -> Tensor:
    """Inputs with one that is 30 times larger."""
    x = uniform(shape, f"x {shape}").double()
    x.view(-1)[x.numel() // 3] *= 30
    return x


class TestLinear:
    @pytest.mark.parametrize(("depth", "outputs"), [(1, 3), (3, 1), (64, 64), (301, 77), (5000, 3)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_close_to_float64(self, depth: int, outputs: int, bias: bool) -> None:
        check_product(seeded(nn.Linear(depth, outputs, bias), "linear"), x_of(9, depth))

    @pytest.mark.parametrize("shape", [(301,), (1, 301), (2, 3, 301), (2, 1, 4, 301)])
    def test_axes_in_front(self, shape: tuple[int, ...]) -> None:
        layer, x = exact("linear"), values((math.prod(shape) // 301, 301), "axes")
        assert torch.equal(layer(x.view(shape)), layer(x).view(*shape[:-1], 77))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_of_the_order_of_the_terms(self, backend: str) -> None:
        order = integers((2500,), 2**16, "order").argsort(stable=True)
        layer, x = seeded(nn.Linear(2500, 9), "order"), values((7, 2500), "order")
        shuffled = nn.Linear(2500, 9)
        shuffled.load_state_dict({"weight": layer.weight[:, order], "bias": layer.bias})
        with use_backend(backend):
            assert torch.equal(convert(shuffled)(x[:, order]), convert(layer)(x))

    def test_a_row_of_zeros_gives_the_bias(self) -> None:
        layer = seeded(nn.Linear(5, 3), "zeros")
        assert torch.equal(convert(layer)(torch.zeros(1, 5, dtype=torch.float64))[0], layer.bias.double())

    @pytest.mark.parametrize("magnitude", [1e-40, 1e-12, 1e12, 1e40])
    def test_scale_of_the_input_does_not_change_the_digits(self, magnitude: float) -> None:
        layer, x = exact("linear, many rows"), values((7, 512), "scale")
        power = 2.0 ** round(math.log2(magnitude))
        assert torch.equal(layer(x * power), layer(x) * power)


class TestConv2d:
    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
    @pytest.mark.parametrize("padding", [0, 1, (2, 0)])
    @pytest.mark.parametrize("stride", [1, 2, (2, 1)])
    def test_close_to_float64(self, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
        layer = nn.Conv2d(4, 8, (3, 2), stride, padding, dilation, groups)
        check_product(seeded(layer, "convolution"), x_of(2, 4, 9, 11))

    @pytest.mark.parametrize(("channels", "kernel", "bias"), [(1, 1, True), (3, 1, False), (6, 5, True)])
    def test_depthwise(self, channels: int, kernel: int, bias: bool) -> None:
        layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)
        check_product(seeded(layer, "depthwise"), x_of(3, channels, 8, 7))

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("elements", [1, 200, 1000])
    def test_parts_of_any_size(self, batch: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = exact("convolution"), inputs("convolution", batch)
        wanted = layer(x)
        monkeypatch.setattr(module, "_PATCH_ELEMENTS", elements)
        assert torch.equal(layer(x), wanted)

    def test_padding_is_with_zeros(self) -> None:
        layer, x = exact("depthwise convolution"), inputs("depthwise convolution")
        unpadded = convert(seeded(nn.Conv2d(6, 6, 5, dilation=2, groups=6), "depthwise convolution"))
        assert torch.equal(unpadded(F.pad(x, (4, 4, 4, 4))), layer(x))


class TestMaskedConv2d:
    @pytest.mark.parametrize("kernel", [3, 5])
    @pytest.mark.parametrize("taps", [causal_taps, checkerboard_taps])
    def test_close_to_float64(self, taps: Any, kernel: int) -> None:
        check_product(seeded(MaskedConv2d(5, 7, taps(kernel)), "masked"), x_of(2, 5, 8, 9))

    @pytest.mark.parametrize("name", ["causal convolution", "checkerboard convolution"])
    def test_a_picture_is_its_patches_one_by_one(self, name: str) -> None:
        layer, x = exact(name), values((1, 6, 7, 8), name)
        whole, padded = layer(x), F.pad(x, (2, 2, 2, 2))
        for i in range(7):
            for j in range(8):
                patch = padded[:, :, i : i + 5, j : j + 5]
                assert torch.equal(layer(patch, padded=False)[:, :, 0, 0], whole[:, :, i, j])

    @pytest.mark.parametrize("name", ["causal convolution", "checkerboard convolution"])
    def test_hidden_cells_change_nothing(self, name: str) -> None:
        layer, x = exact(name), values((1, 6, 5, 5), name)
        hidden = torch.ones(25, dtype=torch.bool)
        hidden[layer.taps] = False
        changed = torch.where(hidden.view(5, 5), 1e9, x)
        assert torch.equal(layer(changed, padded=False), layer(x, padded=False))


class TestConvTranspose2d:
    @pytest.mark.parametrize(
        ("stride", "padding", "extra"),
        [(s, p, e) for s in (1, 2, 3) for p in (0, 1, 2) for e in range(s)] + [((1, 2), (2, 0), (0, 1))],
    )
    @pytest.mark.parametrize("kernel", [3, 5, (2, 4)])
    def test_close_to_float64(self, kernel: Any, stride: Any, padding: Any, extra: Any) -> None:
        layer = nn.ConvTranspose2d(4, 3, kernel, stride, padding, extra)
        check_product(seeded(layer, "transposed"), x_of(2, 4, 5, 6), axis=1)

    def test_without_bias(self) -> None:
        check_product(seeded(nn.ConvTranspose2d(1, 1, 2, 2, bias=False), "transposed"), x_of(1, 1, 3, 3), axis=1)

    def test_taps_that_overlap_share_a_unit(self) -> None:
        layer = nn.ConvTranspose2d(2, 3, 2).requires_grad_(False)
        layer.weight.copy_(uniform((2, 3, 2, 2), "taps") * torch.tensor([[1.0, 1e-2], [1e-4, 1e-6]]))
        units = convert(layer).matrix.unit.view(3, 4)
        assert torch.equal(units, units[:, :1].expand(3, 4))

    def test_channels_of_different_magnitude_that_overlap(self) -> None:
        layer = seeded(nn.ConvTranspose2d(3, 4, 3), "magnitudes")
        layer.weight *= torch.tensor([1e-6, 1.0, 1e6, 1e3])[:, None, None]
        check_product(layer, x_of(2, 3, 5, 5), axis=1)


class TestNorms:
    @pytest.mark.parametrize("size", [1, 2, 7, 300, 4096])
    def test_rms_norm(self, size: int) -> None:
        layer, x = seeded(RMSNorm(size), "rms"), values((7, size), "rms")
        wanted = layer.double()(x)
        error = (convert(layer)(x) - wanted).abs()
        assert (error <= (1.01 * math.sqrt(size) * NORM + FLOAT64) * wanted.abs()).all()

    @pytest.mark.parametrize("size", [1, 2, 7, 300, 4096])
    def test_unit_norm(self, size: int) -> None:
        x = values((7, size), "unit")
        wanted = F.normalize(x, dim=-1)
        error = (convert(UnitNorm())(x) - wanted).abs()
        assert (error <= (1.01 * math.sqrt(size) * NORM + FLOAT64) * wanted.abs()).all()

    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("size", [2, 7, 300, 4096])
    def test_layer_norm(self, size: int, affine: bool) -> None:
        layer = seeded(nn.LayerNorm(size, elementwise_affine=affine), "layer")
        x = values((7, size), "layer") + torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
        deviation = (x.var(-1, keepdim=True, unbiased=False) + layer.eps).sqrt()
        plain = (x - x.mean(-1, keepdim=True)) / deviation
        shift = x.abs().amax(-1, keepdim=True) * NORM / deviation  # of the mean
        bound = 1.1 * (shift + plain.abs() * (shift.square() + math.sqrt(size) * NORM)) + FLOAT64
        wanted = layer.double()(x)
        scale = layer.weight.abs() if affine else 1
        assert ((convert(layer)(x) - wanted).abs() <= bound * scale + FLOAT64).all()

    def test_rows_of_zeros(self) -> None:
        x = torch.zeros(1, 8, dtype=torch.float64)
        for layer in (RMSNorm(8), nn.LayerNorm(8), UnitNorm()):
            assert not convert(layer)(x).any()

    @pytest.mark.parametrize("magnitude", [1e-30, 1e30])
    def test_magnitudes_do_not_matter(self, magnitude: float) -> None:
        x, power = values((7, 33), "magnitudes"), 2.0 ** round(math.log2(magnitude))
        layer = module.RMSNorm(None, 0.0)
        assert torch.equal(layer(x * power), layer(x))
        assert torch.equal(module.LayerNorm(None, None, 0.0)(x * power), module.LayerNorm(None, None, 0.0)(x))

    def test_longest_sum_is_exact(self) -> None:
        x = torch.full((1, MAX_NORM), math.nextafter(2.0, 0), dtype=torch.float64)
        assert sum_of_squares(x).item() == 4 * MAX_NORM
        x[:, ::2] *= -1
        x[:, 0] = 2.0**-18  # one unit: the sum is odd
        assert sum_of_squares(x).item() == 4 * (MAX_NORM - 1) + 2.0**-36

    @pytest.mark.parametrize("threads_count", [1, 2])
    def test_of_the_order_of_the_values(self, threads_count: int) -> None:
        x = values((7, MAX_NORM), "order")
        order = integers((MAX_NORM,), 2**16, "order").argsort(stable=True)
        with threads(threads_count):
            for layer in (module.RMSNorm(None, 1e-5), module.LayerNorm(None, None, 1e-5), module.UnitNorm(1e-12)):
                assert torch.equal(layer(x[:, order]), layer(x)[:, order])

    @pytest.mark.parametrize(
        "layer", [module.RMSNorm(None, 1e-5), module.LayerNorm(None, None, 1e-5), module.UnitNorm(1e-12)]
    )
    def test_longer_sums_are_refused(self, layer: nn.Module) -> None:
        with pytest.raises(ConfigError, match=f"a norm over {MAX_NORM + 1} values is beyond exact arithmetic"):
            layer(torch.zeros(1, MAX_NORM + 1, dtype=torch.float64))


class TestRoots:
    """Roots are those of IEEE 754, which Python's `math.sqrt` computes; those of torch on CPUs are not."""

    @pytest.mark.parametrize("exponent", [-400, -1, 0, 1, 52, 700])
    def test_of_many_numbers(self, exponent: int) -> None:
        x = (uniform((5000, 1), "roots").double().abs() + 1) * 2.0**exponent
        assert square_root(x)[:, 0].tolist() == [math.sqrt(value) for value in x[:, 0].tolist()]

    def test_rms_norm(self) -> None:
        x = uniform((500, 5), "roots").double()
        squares = sum_of_squares(x)[:, 0].tolist()
        roots = [math.sqrt(square * (1 / 5) + 1e-5) for square in squares]
        assert torch.equal(module.RMSNorm(None, 1e-5)(x), x / torch.tensor(roots, dtype=torch.float64)[:, None])

    def test_layer_norm(self) -> None:
        x = uniform((500, 4), "roots").double()
        x = torch.cat([x, -x], 1)  # of mean zero
        roots = [math.sqrt(square * (1 / 8) + 1e-5) for square in sum_of_squares(x)[:, 0].tolist()]
        found = module.LayerNorm(None, None, 1e-5)(x)
        assert torch.equal(found, x / torch.tensor(roots, dtype=torch.float64)[:, None])

    def test_unit_norm(self) -> None:
        x = uniform((500, 5), "roots").double()
        roots = [math.sqrt(square) for square in sum_of_squares(x)[:, 0].tolist()]
        assert torch.equal(module.UnitNorm(1e-12)(x), x / torch.tensor(roots, dtype=torch.float64)[:, None])

    @pytest.mark.parametrize("inverse", [True, False])
    def test_gdn(self, inverse: bool) -> None:
        x = uniform((1, 1, 20, 30), "roots").double() * 181 / 2**12
        x = (x * 2**8).round() / 2**8  # squares that rounding leaves as they are
        x[0, 0, 0, 0] = 1
        roots = [math.sqrt(value * value + 0.1) for value in x.flatten().tolist()]
        norm = torch.tensor(roots, dtype=torch.float64).view(x.shape)
        layer = module.GDN(torch.tensor([0.1], dtype=torch.float64), torch.ones(1, 1), inverse)
        assert torch.equal(layer(x), x * norm if inverse else x / norm)


class TestGDN:
    @pytest.mark.parametrize("channels", [1, 10, 128])
    @pytest.mark.parametrize("inverse", [True, False])
    def test_close_to_float64(self, inverse: bool, channels: int) -> None:
        layer, x = seeded(GDN(channels, inverse), "gdn"), x_of(2, channels, 5, 4)
        gamma, square = layer.gamma.double(), (x * x).permute(0, 2, 3, 1)
        largest = gamma.abs().amax(1, keepdim=True) * WEIGHT
        blur = square.amax(-1, keepdim=True) * ACTIVATION
        error = square @ largest.expand_as(gamma).T + blur.expand_as(square) @ (gamma + largest).T
        part = (error / (square @ gamma.T + layer.beta)).permute(0, 3, 1, 2)
        wanted = layer.double()(x)
        assert part.max() < 0.3  # so that the root moves by less than this part
        assert ((convert(layer)(x) - wanted).abs() <= (part + FLOAT64) * wanted.abs()).all()


class TestEmbedding:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_rows_in_float64(self, dtype: torch.dtype) -> None:
        layer = nn.Embedding(11, 4).to(dtype)
        tokens = integers((2, 3), 11, "tokens")
        assert torch.equal(convert(layer)(tokens), layer.weight.detach()[tokens].double())


class TestResampling:
    @pytest.mark.parametrize("sizes", [((8, 8), (4, 2)), ((7, 9), (3, 4)), ((5, 3), (5, 3)), ((4, 6), (9, 7))])
    def test_area(self, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
        x = uniform((2, 3, *sizes[0]), "area").double()
        torch.testing.assert_close(area(x, *sizes[1]), F.interpolate(x, sizes[1], mode="area"), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("sizes", [((1, 1), (4, 4)), ((3, 5), (16, 11)), ((6, 6), (6, 6)), ((16, 13), (5, 3))])
    def test_bicubic(self, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
        x = uniform((2, 3, *sizes[0]), "bicubic").double()
        wanted = F.interpolate(x, sizes[1], mode="bicubic", align_corners=False)
        torch.testing.assert_close(bicubic(x, *sizes[1]), wanted, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("function", [area, bicubic])
    def test_batch_and_layout_do_not_matter(self, function: Any) -> None:
        x = uniform((5, 4, 7, 6), "layout").double()
        whole = function(x, 9, 4)
        assert torch.equal(function(x.contiguous(memory_format=torch.channels_last), 9, 4), whole)
        assert all(torch.equal(function(x[i : i + 1], 9, 4)[0], whole[i]) for i in range(5))
