"""The same numbers on a GPU as on the CPU."""

from __future__ import annotations

import pytest
import torch
from exact_numbers import digests

from obverse.exact import BACKENDS
from obverse.exact import backends as module
from obverse.exact.backends import carry, product, split_weights
from obverse.exact.rounding import square_root
from obverse.selftest.seeded import integers, uniform

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_parts(backend: str) -> None:
    assert digests(backend, "cuda") == digests("float64")


def test_reduced_precision_of_float32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert digests("float32", "cuda") == digests("float64")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_backends_pass_the_trial(backend: str) -> None:
    assert module._trial(backend, torch.device("cuda")) is not None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 2, 17, 600])
@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (7, 5), (33, 255), (512, 2049)])
def test_products(outputs: int, depth: int, rows: int, backend: str) -> None:
    activations = (integers((rows, depth), 65029, "activations") - 32514).to(torch.int16)
    weights = (integers((outputs, depth), 16385, "weights") - 8192).to(torch.int32)
    found = product(activations.cuda(), carry(split_weights(weights).cuda(), backend), backend)
    wanted = activations.long().numpy() @ weights.long().numpy().T
    assert torch.equal(found.cpu(), torch.from_numpy(wanted).double())


def test_roots() -> None:
    x = uniform((10_000,), "roots").double().abs()
    assert torch.equal(square_root(x.cuda()).cpu(), square_root(x))
