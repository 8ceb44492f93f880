"""Muon: momentum made orthogonal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 32
"""Rows and columns from which a weight counts as a matrix."""


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal for matrices, AdamW for everything else (arXiv:2502.16982).

    The weight of a convolution is a matrix of output channels by everything else. Vectors, and matrices of fewer than
    `SMALLEST` rows or columns, are no matrices here. Neither are tables, with a row per token or class: weights with
    an attribute `table`. Updates are scaled as in section 2.2, so that learning rates and decays are those of AdamW.

    Args:
        params: parameters, or groups of them, whose settings replace the following.
        lr: learning rate.
        betas: of AdamW.
        weight_decay: decoupled decay of all parameters.
        momentum: of the matrices.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; there is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = _matrix_update if _is_matrix(parameter) else _vector_update
                update(parameter, parameter.grad, self.state[parameter], group)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of a matrix U S V^T, in bfloat16, by the quintic Newton-Schulz iterations of section 2.1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.T if tall else x
    return result


def _is_matrix(parameter: Tensor) -> bool:
    if hasattr(parameter, "table"):
        return False
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= SMALLEST


def _matrix_update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
    matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
    change = orthogonal(matrix).reshape(parameter.shape).to(parameter.dtype)
    parameter.add_(change, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def _vector_update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    state["step"] += 1
    first, second = group["betas"]
    mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
    square = state["square"].lerp_(gradient.square(), 1 - second) / (1 - second ** state["step"])
    parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-group["lr"])
