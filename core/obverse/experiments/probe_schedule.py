"""How a linear probe is trained; without torch, so that recipes are read fast."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a probe is trained; the defaults are those of the paper's table.

    Attributes:
        epochs: passes over the training set.
        warmup: epochs of a learning rate that rises linearly from 0; a half cosine down to 0 follows.
        batch: pictures per step.
        lr: base learning rate, for 256 pictures per step; what is used is lr * batch / 256.
        momentum: of LARS.
        weight_decay: of LARS.
    """

    epochs: int = 90
    warmup: int = 10
    batch: int = 16384
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0

    def rate(self, epoch: float, batch: int) -> float:
        """Learning rate after a number of epochs, with the batch that is really used."""
        peak = self.lr * batch / 256
        if epoch < self.warmup:
            return peak * epoch / self.warmup
        done = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
        return peak * (1 + math.cos(math.pi * done)) / 2
