"""Files of MS-ILLM in https://github.com/facebookresearch/NeuralCompression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes
from obverse.compressai import current, density

_BOTTLENECK = "hyper_bottleneck"

_RENAMED = (
    (r"encoder\.blocks\.(\d+)\.0\.", r"encoder.analysis.stages.\1.1."),
    (r"encoder\.blocks\.(\d+)\.1\.", r"encoder.analysis.stages.\1.2."),
    (r"encoder\.blocks\.\d+\.(weight|bias)", r"encoder.analysis.last.1.\1"),
    (r"decoder\.block_0\.0\.", "encoder.synthesis.head.0."),
    (r"decoder\.block_0\.1\.", "encoder.synthesis.head.2."),
    (r"decoder\.block_0\.2\.", "encoder.synthesis.head.3."),
    (r"decoder\.resid_blocks\.(\d+)\.sequence\.0\.", r"encoder.synthesis.blocks.\1.conv1."),
    (r"decoder\.resid_blocks\.(\d+)\.sequence\.1\.", r"encoder.synthesis.blocks.\1.norm1."),
    (r"decoder\.resid_blocks\.(\d+)\.sequence\.3\.", r"encoder.synthesis.blocks.\1.conv2."),
    (r"decoder\.resid_blocks\.(\d+)\.sequence\.4\.", r"encoder.synthesis.blocks.\1.norm2."),
    (r"decoder\.blocks\.(\d+)\.([01])\.", r"encoder.synthesis.doubling.\1.\2."),
    (r"decoder\.blocks\.\d+\.(weight|bias)", r"encoder.synthesis.last.1.\1"),
    (r"hyper_analysis\.0\.", "encoder.hyper_analysis.0."),
    (r"hyper_analysis\.([24])\.", r"encoder.hyper_analysis.\1.1."),
    (r"hyper_synthesis_mean\.", "prior.mean."),
    (r"hyper_synthesis_scale\.", "prior.scale."),
)


class MsillmFile(CheckpointFormat):
    """`HiFiCAutoencoder`, trained with or without a discriminator, which is in none of the files."""

    names: ClassVar[tuple[str, ...]] = (
        "encoder.blocks.0.0.weight",
        "decoder.block_0.0.gamma",
        "hyper_synthesis_mean.0.weight",
        f"{_BOTTLENECK}.quantiles",
    )

    def recognises(self, shapes: Shapes) -> bool:
        return all(name in shapes for name in self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = current(tensors)
        prior = {f"prior.density.{name}": tensor for name, tensor in density(tensors, _BOTTLENECK).items()}
        others = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{_BOTTLENECK}.")}
        return {_our_name(name): tensor for name, tensor in others.items()} | prior


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMED:
        renamed, found = re.subn(f"^{pattern}", ours, name)
        if found:
            return renamed
    return f"encoder.{name}"
