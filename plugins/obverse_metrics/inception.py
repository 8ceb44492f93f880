"""The Inception network of FID: TensorFlow's of 2015-12-05 (arXiv:1512.00567), as its ports to torch name its tensors.

It differs from torchvision's `inception_v3` in 1008 classes, in average pools that leave the padding out, and in the
maximum pool of the last block.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.evaluation.interfaces import SetMetric
from obverse_metrics.networks import NetworkOptions
from obverse_metrics.weights import Published, fill, read_all

SIDE = 299
"""Side in pixels that pictures are resized to."""

_SPATIAL_CHANNELS = 7
_REMEMBERED = 4
_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; padded to keep the size unless it is told or strides."""

    def __init__(
        self, channels: int, width: int, kernel: int | tuple[int, int], *, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (rows // 2, columns // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, width, (rows, columns), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, width, H', W']."""
        result: Tensor = self.bn(self.conv(x)).relu()
        return result


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35x35 cells."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(channels, 64, 1)
        self.branch5x5_1 = Convolution(channels, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, 224 + pooled, h, w]."""
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_average(x))], dim=1)


class BlockB(nn.Module):
    """From 35x35 cells to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C + 480, h', w']."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """17x17 cells."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Convolution(channels, 192, 1)
        self.branch7x7_1 = Convolution(channels, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, row)
        self.branch7x7_3 = Convolution(inner, 192, column)
        self.branch7x7dbl_1 = Convolution(channels, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, column)
        self.branch7x7dbl_3 = Convolution(inner, inner, row)
        self.branch7x7dbl_4 = Convolution(inner, inner, column)
        self.branch7x7dbl_5 = Convolution(inner, 192, row)
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, 768, h, w]."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class BlockD(nn.Module):
    """From 17x17 cells to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(channels, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(channels, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C + 512, h', w']."""
        single = self.branch3x3_2(self.branch3x3_1(x))
        triple = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([single, self.branch7x7x3_4(triple), F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """8x8 cells."""

    def __init__(self, channels: int, *, maximum: bool) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self._maximum = maximum
        self.branch1x1 = Convolution(channels, 320, 1)
        self.branch3x3_1 = Convolution(channels, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, row)
        self.branch3x3_2b = Convolution(384, 384, column)
        self.branch3x3dbl_1 = Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a = Convolution(384, 384, row)
        self.branch3x3dbl_3b = Convolution(384, 384, column)
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, 2048, h, w]."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            *(self.branch3x3_2a(single), self.branch3x3_2b(single)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1) if self._maximum else _average(x)),
        ]
        return torch.cat(branches, dim=1)


class Inception(nn.Module):
    """Features of pictures for FID, sFID and the Inception score."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            images: [B, 3, H, W] float32, 0 to 255.

        Returns:
            `pool` [B, 2048], the last cells' mean; `spatial` [B, 2023], the first seven channels in the middle of the
            network, row by row; `logits` [B, 1008] without the bias.
        """
        x = (resize(images, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        spatial = x[:, :_SPATIAL_CHANNELS].movedim(1, -1).flatten(1)  # [B, 17 * 17 * 7]
        pool = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x)))).mean(dim=(2, 3))
        return {"pool": pool, "spatial": spatial, "logits": F.linear(pool, self.fc.weight)}


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear as TensorFlow 1 did it, which puts sample i of the result at i * H / side, and has no antialiasing.

    >>> resize(torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]]), 3)[0, 0, 0]
    tensor([0., 2., 3.])

    Args:
        images: [B, C, H, W].
        side: of the result, in pixels.
    """
    for axis in (2, 3):
        length = images.shape[axis]
        places = torch.arange(side, device=images.device) * (length / side)
        low = places.long().clamp(max=length - 1)
        share = (places - low).to(images.dtype).view([-1, 1] if axis == 2 else [-1])
        first, second = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp(max=length - 1))
        images = first + (second - first) * share
    return images


@functools.cache
def load_inception(paths: tuple[Path, ...], device: str) -> Inception:
    """The network of a file, one for all metrics that use it.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    model = Inception()
    fill(model, read_all(paths), paths)
    return model.to(device)


class InceptionMetric(NetworkOptions, SetMetric):
    """Base of metrics on Inception features of whole pictures.

    Attributes:
        arrays: names of the features that it needs (see `Inception.forward`).
    """

    arrays: ClassVar[Sequence[str]] = ("pool",)
    published: ClassVar[Sequence[Published]] = [Published("pt_inception-2015-12-05-6726825d.pth", _URL, "Apache-2.0")]
    implementation: ClassVar[str] = "Inception 2015-12-05, obverse 1"

    def load(self) -> nn.Module:
        """The network, shared with other metrics."""
        return load_inception(self.weights.paths(), self.device)

    def features(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        """One row for the picture, by the names in `arrays`."""
        found = _remembered(self.network, pixels, self.device)
        return {name: found[name] for name in self.arrays}


# Networks live as long as the program (`load_inception`), so their ids are not given out again.
_recent: OrderedDict[tuple[int, bytes], dict[str, np.ndarray]] = OrderedDict()


def _remembered(network: nn.Module, pixels: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """Features of a picture; the last few are kept, because several metrics ask for the same."""
    key = (id(network), hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest())
    if key not in _recent:
        _recent[key] = extract(network, pixels[None], device)
        while len(_recent) > _REMEMBERED:
            _recent.popitem(last=False)
    return _recent[key]


def extract(network: nn.Module, pixels: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """Features of a batch.

    Args:
        network: an `Inception` on its device.
        pixels: [B, H, W, 3] uint8.
        device: of the network.

    Returns:
        By name, [B, features] float32.
    """
    with torch.inference_mode():
        images = torch.tensor(pixels).movedim(-1, 1).to(device).float()
        return {name: value.cpu().numpy() for name, value in network(images).items()}


def pooled(features: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """The rows of all pictures, [N, features] float64."""
    return np.concatenate([each[name] for each in features]).astype(np.float64)
