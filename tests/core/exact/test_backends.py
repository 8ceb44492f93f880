"""Every backend gives the sums of integers, at the limits of the numbers and of the sizes as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.exact import BACKENDS, use_backend
from obverse.exact import backends as module
from obverse.exact.backends import MAX_DEPTH, backend_for, carry, product, split_weights
from obverse.exact.matrix import WEIGHT_LIMIT, Matrix
from obverse.exact.rounding import ACTIVATION_LIMIT
from obverse.selftest.seeded import integers, uniform

CPU = torch.device("cpu")
WORST_ACTIVATION, WORST_WEIGHT = 126 * 256 + 128, 63 * 128 + 64
"""Numbers with both limbs at their ends: (127, -128) and (64, -64)."""


@pytest.fixture(autouse=True)
def _fresh_choice() -> Iterator[None]:
    module._fastest.cache_clear()
    yield
    module._fastest.cache_clear()


def random_activations(rows: int, depth: int) -> Tensor:
    return (integers((rows, depth), 2 * ACTIVATION_LIMIT + 1, "activations") - ACTIVATION_LIMIT).to(torch.int16)


def random_weights(rows: int, depth: int) -> Tensor:
    return (integers((rows, depth), 2 * WEIGHT_LIMIT + 1, "weights") - WEIGHT_LIMIT).to(torch.int32)


def filled(rows: int, depth: int, value: int, *, alternate: bool = False) -> Tensor:
    signs = 1 - 2 * ((torch.arange(rows)[:, None] + torch.arange(depth)) % 2) if alternate else torch.ones(rows, depth)
    return (signs * value).long()


def check(activations: Tensor, weights: Tensor, backend: str) -> None:
    """The product is that of 64-bit integers, which numpy computes without any library for matrices."""
    wanted = activations.long().numpy() @ weights.long().numpy().T
    found = product(activations.to(torch.int16), carry(split_weights(weights.int()), backend), backend)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.from_numpy(wanted).double())


@pytest.mark.parametrize("backend", BACKENDS)
class TestProducts:
    @pytest.mark.parametrize("rows", [1, 2, 3, 17, 600])
    @pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (2, 2), (7, 5), (33, 255), (64, 256), (5, 2049)])
    def test_random_numbers(self, rows: int, outputs: int, depth: int, backend: str) -> None:
        check(random_activations(rows, depth), random_weights(outputs, depth), backend)

    @pytest.mark.parametrize("depth", [1, 2, 31, 2047, 2048, 2049, 4097, 5000])
    @pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
    @pytest.mark.parametrize("sizes", [(ACTIVATION_LIMIT, WEIGHT_LIMIT), (WORST_ACTIVATION, WORST_WEIGHT), (128, 64)])
    def test_limits(self, sizes: tuple[int, int], signs: tuple[int, int], depth: int, backend: str) -> None:
        check(filled(3, depth, sizes[0] * signs[0]), filled(5, depth, sizes[1] * signs[1]), backend)

    @pytest.mark.parametrize("depth", [7, 2048, 5000])
    def test_limits_of_alternating_sign(self, depth: int, backend: str) -> None:
        activations = filled(2, depth, ACTIVATION_LIMIT, alternate=True)
        check(activations, filled(3, depth, WEIGHT_LIMIT, alternate=True), backend)
        check(activations, filled(3, depth, WEIGHT_LIMIT), backend)

    def test_many_sums_in_several_parts(self, backend: str) -> None:
        weights = random_weights(4500, 3)
        for exponent in range(4, 9):
            for more in (-1, 0, 1):
                check(random_activations(2**exponent + more, 3), weights, backend)

    def test_longest_sum(self, backend: str) -> None:
        for activation, weight in ((-128, -64), (128, -64), (ACTIVATION_LIMIT, WEIGHT_LIMIT)):
            check(filled(1, MAX_DEPTH, activation), filled(1, MAX_DEPTH, weight), backend)

    @pytest.mark.parametrize("depth", [2048, 2049, 4097])
    def test_odd_sums_beyond_24_bits(self, depth: int, backend: str) -> None:
        check(*odd_sum(depth), backend)

    @pytest.mark.parametrize("precision", ["high", "medium"])
    def test_reduced_precision_of_float32(self, precision: str, backend: str) -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            check(random_activations(40, 300), random_weights(50, 300), backend)
        finally:
            torch.set_float32_matmul_precision(before)

    def test_rows_out_of_order(self, backend: str) -> None:
        activations = random_activations(6, 20).repeat_interleave(2, 1)[:, ::2]
        check(activations.t().contiguous().t(), random_weights(4, 20), backend)


def odd_sum(depth: int) -> tuple[Tensor, Tensor]:
    """Operands whose low limbs sum to 8192 * (depth - 1) + 1: no float32 from a depth of 2049."""
    activations, weights = filled(2, depth, 128), filled(2, depth, -64)
    activations[:, -1], weights[:, -1] = 1, 1
    return activations, weights


class TestDepth:
    def test_float32_would_be_wrong_with_longer_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FLOAT32_DEPTH", 2049)
        with pytest.raises(AssertionError):
            check(*odd_sum(2049), "float32")

    def test_int8_does_not_overflow(self) -> None:
        assert 128 * 64 * MAX_DEPTH < 2**31

    def test_longer_sums_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=f"sums of {MAX_DEPTH + 1} terms are beyond exact arithmetic"):
            Matrix(torch.zeros(1, MAX_DEPTH + 1))


def saturating(left: Tensor, right: Tensor) -> Tensor:
    """A product of bytes as x86 processors without VNNI compute it: pairs of products are added in 16 bits."""
    shifted = left.long() + 128
    terms = torch.nn.functional.pad(shifted[:, None] * right.long(), (0, len(left[0]) % 2))
    pairs = terms.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(-1) - 128 * right.long().sum(-1)).int()


class TestBytes:
    def test_limbs_are_right_where_pairs_saturate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_int8_product", saturating)
        for activation in (WORST_ACTIVATION, -WORST_ACTIVATION, ACTIVATION_LIMIT, -129, 127):
            for weight in (WORST_WEIGHT, -WORST_WEIGHT, WEIGHT_LIMIT, -WEIGHT_LIMIT, -64):
                check(filled(2, 9, activation), filled(2, 9, weight), "int8")
        check(random_activations(20, 31), random_weights(20, 31), "int8")

    def test_full_range_bytes_are_wrong_where_pairs_saturate(self) -> None:
        left, right = filled(1, 8, 127).to(torch.int8), filled(1, 8, 127).to(torch.int8)
        assert saturating(left, right).item() != 8 * 127 * 127

    @pytest.mark.parametrize(
        ("rows", "outputs", "depth"), [(1, 1, 1), (2, 5, 3), (17, 9, 20), (32, 8, 8), (33, 16, 301)]
    )
    def test_padded_product_is_the_product(self, rows: int, outputs: int, depth: int) -> None:
        left = (integers((rows, depth), 256, "left") - 128).to(torch.int8)
        right = (integers((outputs, depth), 129, "right") - 64).to(torch.int8)
        assert torch.equal(module._aligned_product(left, right), module._int8_product(left, right))

    def test_padded_product_has_sides_that_cuda_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        multiply, shapes = torch._int_mm, []

        def spy(left: Tensor, right: Tensor) -> Tensor:
            shapes.append((*left.shape, right.shape[1]))
            return multiply(left, right)

        monkeypatch.setattr(torch, "_int_mm", spy)
        for rows in (1, 16, 17, 40):
            module._aligned_product(*(torch.ones(side, 13, dtype=torch.int8) for side in (rows, 9)))
        assert all(m > 16 and k % 8 == 0 and n % 8 == 0 for m, k, n in shapes)


class TestChoice:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_all_backends_pass_the_trial_here(self, backend: str) -> None:
        assert backend in module.usable_backends(CPU)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_one_wrong_sum_excludes_a_backend(self, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(activations: Tensor, carried: Tensor, name: str) -> Tensor:
            sums = product(activations, carried, name)
            sums[0, 0] += name == backend
            return sums

        monkeypatch.setattr(module, "product", wrong)
        assert backend not in module.usable_backends(CPU)
        assert backend_for(CPU) != backend

    def test_sums_without_their_last_bits_exclude_a_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "product", lambda *operands: product(*operands).float().double())
        assert "float64" not in module.usable_backends(CPU)

    def test_a_backend_that_a_device_does_not_have_is_excluded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(left: Tensor, right: Tensor) -> Tensor:
            raise NotImplementedError("no kernel")

        monkeypatch.setattr(module, "_int8_product", missing)
        assert backend_for(CPU) in ("float32", "float64")

    def test_a_device_without_right_sums_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "product", lambda *operands: product(*operands) * 0)
        with pytest.raises(ConfigError, match="device cpu gives wrong sums with every exact backend"):
            backend_for(CPU)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_the_environment_names_one(self, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OBVERSE_EXACT_BACKEND", backend)
        assert backend_for(CPU) == backend

    def test_the_environment_names_one_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OBVERSE_EXACT_BACKEND", "int4")
        with pytest.raises(ConfigError, match=r"there is no exact backend 'int4' \(backends: int8, float32, float64\)"):
            backend_for(CPU)

    def test_code_names_one_that_does_not_exist(self) -> None:
        with pytest.raises(ConfigError, match="there is no exact backend 'int4'"), use_backend("int4"):
            pass

    def test_code_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OBVERSE_EXACT_BACKEND", "int8")
        with use_backend("float32"):
            assert backend_for(CPU) == "float32"

    def test_the_choice_ends_with_the_block(self) -> None:
        before = backend_for(CPU)
        with use_backend("float32"):
            with pytest.raises(KeyError), use_backend("float64"):
                raise KeyError
            assert backend_for(CPU) == "float32"
        assert backend_for(CPU) == before

    def test_a_matrix_follows_the_choice(self) -> None:
        matrix, activations = Matrix(uniform((5, 7), "matrix")), random_activations(3, 7)
        results, held = [], []
        for name in (*BACKENDS, "int8"):
            with use_backend(name):
                results.append(matrix.times(activations))
            assert matrix._carried is not None
            held.append(matrix._carried[1].dtype)
        assert held == [torch.int8, torch.float32, torch.float64, torch.int8]
        assert all(torch.equal(result, results[0]) for result in results)
