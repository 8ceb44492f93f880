"""What is trained: a module that turns a batch of images into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Task(nn.Module, ABC):
    """A loss over images, and the weights that come of it.

    Subclasses are registered with kind `task`; their keyword arguments are the keys of the config's `task`.
    """

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar) of images [B, 3, H, W] in [0, 1], and numbers worth logging by name."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Tensors of the trained parts under the codec's keys (`encoder.…`, `quantizer.…`, `prior.…`)."""

    def preview(self, images: Tensor) -> Tensor | None:
        """What to look at while it trains: images of the same shape, or None."""
        return None
