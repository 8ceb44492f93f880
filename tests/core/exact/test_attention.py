"""Exact attention is close to softmax in float64, and the same in parallel and step by step."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from obverse.errors import ConfigError
from obverse.exact import attention as module
from obverse.exact.attention import MAX_HEAD, MAX_LENGTH, VALUE_BITS, VALUE_UNIT, Attend
from obverse.exact.tables import SOFTMAX_BITS, SOFTMAX_STEPS
from obverse.nn.attention import KeyValueCache
from obverse.selftest.seeded import integers, uniform

attend = Attend()


def inputs(batch: int = 2, heads: int = 3, queries: int = 33, width: int = 20, size: float = 4.0) -> list[Tensor]:
    return [uniform((batch, heads, queries, width), name).double() * size for name in "qkv"]


def kept(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q, attend.keys(k), attend.values(v)


def bound(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """How far the result may be from softmax, [B, H, Tq, 1].

    Queries and keys move by half a unit, scores by 1/8192 besides; so every weight moves by a factor, and by half of
    2**-16 of the largest one. Values move by half a unit.
    """
    dq, dk = (x.abs().amax(-1, keepdim=True) * 2.0**-15 for x in (q, k))
    moved = (q.abs() + dq) @ dk.expand_as(k).mT + dq.expand_as(q) @ k.abs().mT
    factor = torch.expm1(2 * (scale * moved.amax(-1, keepdim=True) + 0.5 / SOFTMAX_STEPS))
    weights = factor + 2 * k.shape[2] * 2.0 ** -(SOFTMAX_BITS + 1)
    return weights * v.abs().amax((2, 3), keepdim=True) + VALUE_UNIT / 2


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [None, 0.05, 1.0])
@pytest.mark.parametrize("width", [1, 4, 20, 64])
def test_close_to_softmax_in_float64(width: int, scale: float | None, causal: bool) -> None:
    q, k, v = inputs(width=width)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    found = attend(*kept(q, k, v), scale=scale, causal=causal)
    limit = bound(q, k, v, width**-0.5 if scale is None else scale)
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= limit).all()


def test_the_bound_is_small_for_usual_sizes() -> None:
    assert bound(*inputs(width=64, size=1.0), scale=1 / 8).max() < 0.005


def test_a_causal_pass_is_the_cache_that_grows() -> None:
    q, k, v = inputs()
    whole = attend(*kept(q, k, v), causal=True)
    cache = KeyValueCache(2, 3, 33, 20, q)
    for t in range(33):
        now = slice(t, t + 1)
        keys, values = cache.append(attend.keys(k[:, :, now]), attend.values(v[:, :, now]))
        assert torch.equal(attend(q[:, :, now], keys, values), whole[:, :, now])


def test_hidden_positions_count_as_missing() -> None:
    q, k, v = kept(*inputs())
    seen = integers((33,), 2, "seen") == 1
    masked = attend(q, k, v, mask=seen.expand(33, 33))
    assert torch.equal(masked, attend(q, k[:, :, seen], v[:, :, seen]))


def test_every_query_has_its_own_mask() -> None:
    q, k, v = kept(*inputs())
    mask = (integers((33, 33), 2, "mask") == 1) | torch.eye(33, dtype=torch.bool)
    whole = attend(q, k, v, mask=mask)
    for t in range(33):
        assert torch.equal(attend(q[:, :, t : t + 1], k, v, mask=mask[t : t + 1]), whole[:, :, t : t + 1])


def test_causal_is_a_mask() -> None:
    q, k, v = kept(*inputs())
    assert torch.equal(attend(q, k, v, causal=True), attend(q, k, v, mask=torch.ones(33, 33, dtype=torch.bool).tril()))


@pytest.mark.parametrize("size", [1, 33 * 33, 33 * 33 * 4, 10**9])
def test_parts_of_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = kept(*inputs())
    wanted = attend(q, k, v, causal=True)
    monkeypatch.setattr(module, "_CHUNK", size)
    assert torch.equal(attend(q, k, v, causal=True), wanted)


def test_batch_and_heads_do_not_matter() -> None:
    q, k, v = kept(*inputs())
    whole = attend(q, k, v)
    for i in range(2):
        for j in range(3):
            alone = attend(*(x[i : i + 1, j : j + 1] for x in (q, k, v)))
            assert torch.equal(alone, whole[i : i + 1, j : j + 1])


def test_order_of_the_positions_does_not_matter() -> None:
    q, k, v = kept(*inputs(queries=500))
    order = integers((500,), 2**16, "order").argsort(stable=True)
    assert torch.equal(attend(q, k[:, :, order], v[:, :, order]), attend(q, k, v))


def test_layout_does_not_matter() -> None:
    q, k, v = kept(*inputs())
    turned = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert torch.equal(attend(*turned), attend(q, k, v))


def test_inputs_stay() -> None:
    before = kept(*inputs())
    copies = [x.clone() for x in before]
    attend(*before, causal=True)
    assert all(torch.equal(x, copy) for x, copy in zip(before, copies, strict=True))


def test_equal_scores_give_the_mean() -> None:
    q, k, v = kept(*inputs())
    found = attend(q * 0, k, v)
    mean = (v / VALUE_UNIT).long().sum(2, keepdim=True).double() * VALUE_UNIT / 33
    assert torch.equal(found, mean.expand_as(found))


def test_one_dominating_score_gives_its_value() -> None:
    q, k, v = kept(*inputs(width=4))
    far = math.log(2.0 ** (SOFTMAX_BITS + 1)) + 0.01  # here the table is zero
    k = torch.zeros_like(k)
    k[:, :, 7, 0] = 2.0
    q = torch.zeros_like(q)
    q[..., 0] = far / 2
    assert torch.equal(attend(q, k, v, scale=1.0), v[:, :, 7:8].expand_as(v))


def test_a_little_less_still_counts() -> None:
    q, k, v = torch.full((1, 1, 1, 1), 11.0), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = attend(*kept(q.double(), k.double().view(1, 1, 2, 1), v.double().view(1, 1, 2, 1)), scale=1.0)
    assert found.item() == 1 / 65537  # 2**16 exp(-11) is 1.09


def test_values_are_limited() -> None:
    v = torch.tensor([1e30, -1e30, 1023.99999, 1e-30], dtype=torch.float64).view(1, 1, 4, 1)
    limit = 2.0**VALUE_BITS * VALUE_UNIT
    assert attend.values(v).flatten().tolist() == [limit, -limit, limit, 0]


@pytest.mark.parametrize("magnitude", [2.0**-100, 2.0**100])
def test_magnitudes_of_queries_and_keys_do_not_matter(magnitude: float) -> None:
    q, k, v = inputs()
    wanted = attend(*kept(q, k, v))
    assert torch.equal(attend(*kept(q * magnitude, k / magnitude, v)), wanted)


def test_longest_sum_is_exact() -> None:
    v = torch.full((1, 1, MAX_LENGTH, 1), 1024.0, dtype=torch.float64)
    v[:, :, ::2] = -1024.0
    v[:, :, 0] = VALUE_UNIT
    q = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    wanted = (1024 + VALUE_UNIT) / MAX_LENGTH
    keys = torch.zeros_like(v)
    assert attend(q, keys, v).item() == wanted
    order = integers((MAX_LENGTH,), 2**16, "order").argsort(stable=True)
    assert attend(q, keys, v[:, :, order]).item() == wanted


@pytest.mark.parametrize(("length", "width"), [(MAX_LENGTH + 1, 1), (1, MAX_HEAD + 1)])
def test_limits_are_enforced(length: int, width: int) -> None:
    q, k = (torch.zeros(1, 1, size, width, dtype=torch.float64) for size in (1, length))
    with pytest.raises(ConfigError, match=f"attention to {length} positions of width {width} is beyond exact"):
        attend(q, k, k)


def small(values: list[float]) -> Tensor:
    """[1, 1, T, 1]."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1)


@pytest.mark.parametrize(("steps", "rounded"), [(0.4, 0), (0.6, 1), (1.5, 2), (2.5, 2), (4095.7, 4096)])
def test_scores_are_rounded_to_a_4096th_of_a_nat(steps: float, rounded: int) -> None:
    """Of the larger score 0, so that the other one alone is rounded."""
    found = attend(*kept(small([1.0]), small([0.0, -1.0]), small([0.0, 1.0])), scale=steps / 4096)
    weight = round(2**16 * math.exp(-rounded / 4096))
    assert found.item() == weight / (2**16 + weight)


def test_queries_and_keys_keep_15_bits() -> None:
    """One unit of 2**-14 beside a largest value of 1 counts; half a unit does not."""
    for second, counts in ((2.0**-14, True), (2.0**-15, False)):
        fine = torch.tensor([[[[1.0, second]]]], dtype=torch.float64)
        coarse = torch.tensor([[[[0.0, 2.0**14], [0.0, 0.0]]]], dtype=torch.float64)
        assert (attend(*kept(fine, coarse, small([1.0, 0.0]))).item() > 0.5) is counts
        assert attend.keys(fine)[0, 0, 0, 1].item() == (second if counts else 0)


def test_products_of_queries_and_keys_are_exact() -> None:
    """Keys that are permutations of one another have one score, of which any error is magnified here."""
    width, count = 4096, 16
    key = uniform((width,), "key").double()
    orders = [integers((width,), 2**16, f"order {i}").argsort(stable=True) for i in range(count)]
    k = torch.stack([key[order] for order in orders])[None, None]
    q = torch.full((1, 1, 1, width), 0.7, dtype=torch.float64)
    v = small([float(i) for i in range(count)])
    assert attend(*kept(q, k, v), scale=2.0**60).item() == (count - 1) / 2
