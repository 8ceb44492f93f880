"""Weights as integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact import backends
from obverse.exact.rounding import largest_magnitude, power_of_two

WEIGHT_LIMIT = 2**13
"""Largest magnitude of a rounded weight."""


class Matrix(nn.Module):
    """A weight matrix [N, K] of 14-bit integers, with a power of two per row.

    Args:
        weight: [N, K] floating point, finite; K at most `backends.MAX_DEPTH`.
        rows_per_unit: this many consecutive rows share a power of two (the taps of a transposed convolution).

    Raises:
        ConfigError: the weights are not finite, or K is too large to be summed exactly.
    """

    limbs: Tensor
    unit: Tensor

    def __init__(self, weight: Tensor, rows_per_unit: int = 1) -> None:
        super().__init__()
        weight = weight.detach().double()
        if not bool(weight.isfinite().all()):
            raise ConfigError(
                "weights hold infinities or values that are no numbers; exact arithmetic needs finite ones"
            )
        self.outputs, self.depth = weight.shape
        if self.depth > backends.MAX_DEPTH:
            raise ConfigError(f"sums of {self.depth} terms are beyond exact arithmetic (limit {backends.MAX_DEPTH})")
        groups = weight.reshape(-1, rows_per_unit * self.depth)
        unit, inverse = power_of_two(largest_magnitude(groups), -12)
        integers = (groups * inverse).round().reshape(weight.shape).to(torch.int32)
        self.register_buffer("limbs", backends.split_weights(integers))
        self.register_buffer("unit", unit.expand(-1, rows_per_unit).reshape(-1).contiguous())
        self._carried: tuple[str, Tensor] | None = None

    def times(self, activations: Tensor) -> Tensor:
        """int16 [M, K] -> whole numbers [M, N], float64; to be multiplied by `unit`."""
        backend = backends.backend_for(activations.device)
        if self._carried is None or self._carried[0] != backend or self._carried[1].device != self.limbs.device:
            self._carried = backend, backends.carry(self.limbs, backend)
        return backends.product(activations, self._carried[1], backend)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._carried = None
        super()._load_from_state_dict(*arguments)

    def integers(self) -> Tensor:
        """The rounded weights [N, K], int64."""
        return backends.join_weights(self.limbs, torch.int64)
