"""Exact attention."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact.audit import trusted
from obverse.exact.rounding import snap, snap_to
from obverse.exact.tables import SOFTMAX_STEPS, softmax_table

MAX_LENGTH = 2**13
"""Positions that one query may look at: weights of 16 bits times values of 23 bits times 2**13 stay within 2**53."""

MAX_HEAD = 2**20
VALUE_UNIT = 2.0**-13
VALUE_BITS = 23
_KEY_BITS = 15
_CHUNK = 2**19  # scores held at once, so that they stay in the cache


class Attend(nn.Module):
    """softmax(scale * q k^T) v. Queries and keys are rounded to 16 bits per head, values to multiples of 2**-13.

    Scores are rounded to 1/4096 nat; their exponentials are integers out of 2**16.
    """

    @trusted
    def keys(self, k: Tensor) -> Tensor:
        """Keys as they are kept, [B, H, T, d]."""
        return snap(k, _KEY_BITS)

    @trusted
    def values(self, v: Tensor) -> Tensor:
        """Values as they are kept, [B, H, T, d]; magnitudes beyond 1024 are cut."""
        return snap_to(v, VALUE_UNIT, VALUE_BITS)

    @trusted
    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to kept keys and values.

        Args:
            q: [B, H, Tq, d] float64.
            k, v: [B, H, T, d] from `keys` and `values`.
            scale: factor of the scores, 1 / sqrt(d) by default.
            causal: query i sees positions up to i; only for Tq = T, and without a mask.
            mask: [Tq, T] bool, True where seen; every query sees at least one position.

        Returns:
            [B, H, Tq, d] float64.

        Raises:
            ConfigError: more positions than can be summed exactly.
        """
        batch, heads, queries, width = q.shape
        length = k.shape[2]
        if length > MAX_LENGTH or width > MAX_HEAD:
            raise ConfigError(
                f"attention to {length} positions of width {width} is beyond exact arithmetic "
                f"(limits {MAX_LENGTH} and {MAX_HEAD})"
            )
        steps = (1 / sqrt(width) if scale is None else scale) * SOFTMAX_STEPS
        if causal:
            if mask is not None or queries != length:
                raise ValueError("causal attention takes no mask, and as many queries as positions")
            mask = torch.ones(queries, length, dtype=torch.bool, device=q.device).tril()
        hidden = None if mask is None else ~mask
        table = _table(q.device)
        q, k, v = snap(q, _KEY_BITS).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        group = max(1, _CHUNK // (queries * length))
        pieces = zip(*(torch.split(some, group) for some in (q, k, v)), strict=True)
        parts = [_attend(*piece, steps, hidden, table) for piece in pieces]  # type: ignore[call-arg]
        return torch.cat(parts).view(batch, heads, queries, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, steps: float, hidden: Tensor | None, table: Tensor) -> Tensor:
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(steps).round_()
    if hidden is not None:
        scores.masked_fill_(hidden, -torch.inf)
    distance = scores.amax(-1, keepdim=True).sub(scores).clamp_(max=len(table) - 1)
    weights = table[distance.long()]
    return torch.bmm(weights, v).div_(weights.sum(-1, keepdim=True))


_tables: dict[torch.device, Tensor] = {}


def _table(device: torch.device) -> Tensor:
    if device not in _tables:
        _tables[device] = softmax_table().to(device)
    return _tables[device]
