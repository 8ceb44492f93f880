"""What metrics with a network share: the options `weights` and `device`, and the network itself, loaded once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from obverse_metrics.weights import MetricWeights, Published


class NetworkOptions:
    """Base of metrics with a network, beside `Metric` or `SetMetric`.

    Attributes:
        published: the files of weights.
        merged: name of one file that may stand in their place.
        implementation: name and number of what is computed; the number grows when values may change.

    Args:
        weights: path of the file of weights, or paths with commas between them; None to look in the folder that
            OBVERSE_METRIC_WEIGHTS names.
        device: where the network runs, such as `cpu` or `cuda`.
    """

    name: ClassVar[str]
    published: ClassVar[Sequence[Published]]
    merged: ClassVar[str | None] = None
    implementation: ClassVar[str]

    def __init__(self, *, weights: str | None = None, device: str = "cpu") -> None:
        self.device = device
        self.weights = MetricWeights(metric=self.name, published=self.published, merged=self.merged, given=weights)

    def missing(self) -> str | None:
        """Which weights it lacks; see `MetricWeights.missing`."""
        return self.weights.missing()

    @property
    def version(self) -> str:
        """The implementation, and the weights by the beginning of their SHA-256."""
        return f"{self.implementation}, weights {self.weights.digest or 'missing'}"

    @abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights."""

    @cached_property
    def network(self) -> nn.Module:
        """The network on its device, loaded on first use."""
        return self.load().to(self.device)

    def tensor(self, pixels: np.ndarray) -> Tensor:
        """Pixels [..., H, W, 3] uint8 as [..., 3, H, W] float32, 0 to 255, on the device."""
        return torch.tensor(pixels).movedim(-1, -3).to(self.device).float()
