"""The watch refuses what may differ between machines, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from exact_numbers import llama, parallel, step_by_step
from torch import Tensor, nn

from obverse.exact import InexactError, audit, convert, trusted
from obverse.nn.resample import area, bicubic
from obverse.selftest.seeded import uniform

X = uniform((4, 4), "x").double() + 2
WHOLE = torch.arange(1, 17).view(4, 4)
THREE = torch.tensor(3.0, dtype=torch.float64)


def watched(function: Callable[[], object]) -> None:
    with audit():
        function()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mm", lambda: X @ X),
        ("bmm", lambda: X[None] @ X[None]),
        ("mv", lambda: X @ X[0]),
        ("bmm", lambda: torch.einsum("ab,bc->ac", X, X)),
        ("addmm", lambda: F.linear(X, X, X[0])),
        ("convolution", lambda: F.conv2d(X[None, None], X[None, None])),
        ("_softmax", lambda: X.softmax(-1)),
        ("_log_softmax", lambda: X.log_softmax(-1)),
        ("exp", lambda: X.exp()),
        ("log", lambda: X.log()),
        ("cos", lambda: X.cos()),
        ("sigmoid", lambda: X.sigmoid()),
        ("silu", lambda: F.silu(X)),
        ("gelu", lambda: F.gelu(X)),
        ("tanh_", lambda: X.clone().tanh_()),
        ("sqrt", lambda: X.sqrt()),  # not rounded correctly on CPUs
        ("rsqrt", lambda: X.rsqrt()),
        ("reciprocal", lambda: 1 / X),
        ("pow", lambda: X**2),
        ("pow", lambda: X**0.5),
        ("sum", lambda: X.sum()),
        ("sum", lambda: X.sum(0)),
        ("mean", lambda: X.mean(-1)),
        ("cumsum", lambda: X.cumsum(0)),
        ("prod", lambda: X.prod()),
        ("var", lambda: X.var()),
        ("linalg_vector_norm", lambda: X.norm()),
        ("native_layer_norm", lambda: F.layer_norm(X, (4,))),
        ("upsample_bilinear2d", lambda: F.interpolate(X[None, None], size=(3, 3), mode="bilinear")),
        ("scatter_add", lambda: X.scatter_add(0, WHOLE % 4, X)),
        ("lerp", lambda: torch.lerp(X, X, 0.3)),
        ("addcmul", lambda: torch.addcmul(X, X, X)),
        ("addcdiv", lambda: torch.addcdiv(X, X, X)),
        ("remainder", lambda: X % 0.3),
        ("floor_divide", lambda: X // 3),
        ("pow", lambda: WHOLE**0.5),
        ("pow", lambda: 2.5**WHOLE),
        ("cumsum", lambda: WHOLE.cumsum(0, dtype=torch.float64)),
        ("sum", lambda: WHOLE.sum(dtype=torch.float32)),
    ],
)
def test_refused(name: str, function: Callable[[], object]) -> None:
    with pytest.raises(InexactError, match=rf"^_?{name} is not exact on floating-point numbers"):
        watched(function)


@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("add in torch.float32; exact models compute in float64", lambda: X.float() + 1),
        ("mul in torch.bfloat16; exact models compute in float64", lambda: X.bfloat16() * 2),
        ("add in torch.float32", lambda: X + X.float()),
        ("add with alpha", lambda: torch.add(X, X, alpha=2)),
        ("sub with alpha", lambda: torch.sub(X, X, alpha=3)),
        ("add_ with alpha", lambda: X.clone().add_(X, alpha=2)),
        ("add with alpha", lambda: torch.add(X, 3.0, alpha=2)),
        ("rsub with alpha", lambda: torch.rsub(X, 3.0, alpha=2)),
        ("division by the number 3", lambda: X / 3),
        ("division by the number 0.3", lambda: X.clone().div_(0.3)),
        ("division by the number 0", lambda: X / 0),
        ("division by a tensor without axes", lambda: X / THREE),
    ],
)
def test_refused_for_how_it_is_done(message: str, function: Callable[[], object]) -> None:
    with pytest.raises(InexactError, match=message):
        watched(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda: X + X,
        lambda: X - 0.1,
        lambda: 1 - X,
        lambda: X * 0.3 * X,
        lambda: X / X,
        lambda: X / X.sub(X[:, :1]).add(1).abs().clamp(1),
        lambda: X / 4,
        lambda: X / -0.5,
        lambda: X.clone().div_(1024),
        lambda: THREE / THREE,
        lambda: torch.add(X, X, alpha=1),
        lambda: X.clone().add_(X).mul_(X).sub_(1),
        lambda: X.round().clamp(0, 3).abs().neg().sign(),
        lambda: F.leaky_relu(F.relu(X), 0.2),
        lambda: X.amax(-1).maximum(X[0]).where(X[0] > 2, 0.0),
        lambda: X.argmax(-1) + 1,
        lambda: torch.cat([X, X.flip(0)]).view(2, 4, 4).permute(1, 0, 2).contiguous()[:, :1].expand(4, 2, 4),
        lambda: F.pixel_shuffle(F.pad(X[None, None], (1, 1)).expand(1, 4, 4, 6), 2),
        lambda: F.interpolate(X[None, None], scale_factor=2.0, mode="nearest"),
        lambda: X.float().double(),
        lambda: WHOLE.sum() + WHOLE.cumsum(0) * WHOLE,
        lambda: WHOLE // 3 % 2,
        lambda: 2**WHOLE + WHOLE**2,
        lambda: WHOLE * 0.5,
        lambda: F.embedding(WHOLE % 4, X),
        lambda: area(X[None, None], 2, 3),
        lambda: bicubic(X[None, None], 8, 7),
    ],
)
def test_allowed(function: Callable[[], object]) -> None:
    watched(function)


class TestModels:
    @pytest.mark.parametrize("run", [parallel, step_by_step])
    def test_a_converted_llama_passes(self, run: Callable[..., Tensor]) -> None:
        model = convert(llama())
        wanted = run(model)
        with audit():
            found = run(model)
        assert torch.equal(found, wanted)

    def test_the_float_llama_does_not(self) -> None:
        model = llama().double()
        with audit(), pytest.raises(InexactError):
            parallel(model)

    def test_wiring_that_is_not_exact_is_found(self) -> None:
        class Gated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(x) * x.sigmoid()

        gated = convert(Gated().requires_grad_(False))
        with audit(), pytest.raises(InexactError, match="sigmoid is not exact"):
            gated(X)

    def test_layers_kept_in_a_list_are_found(self) -> None:
        class Hidden(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.parts = [nn.Linear(4, 4).double().requires_grad_(False)]

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = self.parts[0](x)
                return result

        hidden = convert(Hidden())
        with audit(), pytest.raises(InexactError, match="addmm is not exact"):
            hidden(X)


class TestWatch:
    def test_it_ends_with_the_block(self) -> None:
        watched(lambda: X + X)
        assert torch.isfinite(X.exp().sum())

    def test_it_ends_after_a_refusal(self) -> None:
        with pytest.raises(InexactError):
            watched(lambda: X.exp())
        X.exp()

    def test_it_ends_after_another_error(self) -> None:
        with pytest.raises(KeyError), audit():
            raise KeyError
        X.exp()

    def test_it_can_be_nested(self) -> None:
        with audit():
            with audit():
                X + X
            with pytest.raises(InexactError):
                X.exp()
        X.exp()

    def test_trusted_functions_pass(self) -> None:
        @trusted
        def inside() -> Tensor:
            return X.exp()

        with audit():
            inside()
            with pytest.raises(InexactError):
                X.exp()

    def test_it_goes_on_after_an_error_in_a_trusted_function(self) -> None:
        @trusted
        def broken() -> None:
            raise KeyError

        with audit():
            with pytest.raises(KeyError):
                broken()
            with pytest.raises(InexactError):
                X.exp()

    def test_trusted_functions_keep_name_and_result(self) -> None:
        @trusted
        def double(x: int) -> int:
            """Twice."""
            return 2 * x

        assert (double(4), double.__name__, double.__doc__) == (8, "double", "Twice.")
