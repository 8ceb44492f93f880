"""Official files of NVIDIA, from their names to ours.

A tokenizer is published as `encoder.jit` and `decoder.jit`, as `autoencoder.jit`, as `model.pt` (names start with
`network.`), and its class saves state dicts. They differ in prefixes and in tables that follow from the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes
from obverse_cosmos.haar import log2
from obverse_cosmos.video import doubles, halves

_TABLES = ("wavelets", "_arange", "patch_size_buffer", "_levels", "_basis", "implicit_codebook")
_TEXT = (".cross_attention.", ".cross_attention_norm.")
_LEVEL = re.compile(r"(?:encoder\.down|decoder\.up)\.(?P<level>\d+)\.")


class ImageTokenizerFormat(CheckpointFormat):
    """DI8x8 and DI16x16: VQGAN's names, with the bands of p x p patches where VQGAN has three colours."""

    names = ("encoder.patcher.wavelets", "decoder.unpatcher.wavelets")

    def recognises(self, shapes: Shapes) -> bool:
        shapes = _network(shapes)
        first, last = shapes.get("encoder.conv_in.weight", ()), shapes.get("decoder.conv_out.weight", ())
        bands = [shape[axis] for shape, axis in ((first, 1), (last, 0)) if len(shape) == 4]
        return bool(bands) and all(count in (12, 48, 192) for count in bands)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"encoder.{name}": tensor for name, tensor in _network(tensors).items()}


class VideoTokenizerFormat(CheckpointFormat):
    """DV8x16x16: factorised convolutions under `conv3d`.

    Files of the 1.0 release hold convolutions over space and time at every change of resolution; those that the network
    never runs are left out.

    Args:
        stride: pixels per token.
        time_stride: frames per token.
    """

    names = ("encoder.conv_in.0.conv3d.weight", "decoder.conv_in.0.conv3d.weight")

    def __init__(self, *, stride: int = 16, time_stride: int = 8) -> None:
        self.stride, self.time_stride = stride, time_stride

    def recognises(self, shapes: Shapes) -> bool:
        return not _network(shapes).keys().isdisjoint(self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        network = _network(tensors)
        idle = tuple(self._idle(network))
        return {f"encoder.{name}": tensor for name, tensor in network.items() if not name.startswith(idle)}

    def _idle(self, network: Mapping[str, Tensor]) -> Iterator[str]:
        """Beginnings of the names of convolutions that would change what keeps its size."""
        first, last = "encoder.conv_in.0.conv3d.weight", "decoder.conv_out.0.conv3d.weight"
        bands = network[first].shape[1] if first in network else network[last].shape[0]
        patch = 2 ** (log2(bands // 3) // 3)
        space, time = log2(self.stride // patch), log2(self.time_stride // patch)
        levels = 1 + max(int(match["level"]) for match in map(_LEVEL.match, network) if match)
        for level in range(levels):
            over_space, over_time = halves(level, space, time)
            runs = {"conv1": over_space, "conv2": over_time, "conv3": over_space or over_time}
            yield from (f"encoder.down.{level}.downsample.{conv}." for conv in runs if not runs[conv])
            over_space, over_time = doubles(levels - 1 - level, space, time)
            runs = {"conv1": over_time, "conv2": over_space, "conv3": over_space or over_time}
            yield from (f"decoder.up.{level}.upsample.{conv}." for conv in runs if not runs[conv])


class WorldModelFormat(CheckpointFormat):
    """`model.pt` of the autoregressive world models.

    Attention to text is left out: without a text it adds nothing; `text_weights` has it.
    """

    names = ("tok_embeddings.weight", "layers.0.attention.q_norm.weight", "layers.0.feed_forward.w1.weight")

    def recognises(self, shapes: Shapes) -> bool:
        names = {name.removeprefix("model.") for name in shapes}
        return {*self.names, "layers.0.attention.wq.weight"} <= names

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"prior.{name.removeprefix('model.')}": tensor
            for name, tensor in tensors.items()
            if not any(part in name for part in ("_extra_state", *_TEXT))
        }


def text_weights(tensors: Mapping[str, Tensor], embedding: Tensor) -> dict[str, Tensor]:
    """What a `CosmosPrior` with a text has beside the tensors of `WorldModelFormat`; saved, another file of weights.

        tensors = read_checkpoint(Path("Cosmos-Predict1-5B-Video2World/model.pt"))
        save_file(text_weights(tensors, embedding), "text.safetensors")

    Args:
        tensors: of the official file.
        embedding: of the text by T5-11B, [N, E].
    """
    attention = {
        f"prior.{name.removeprefix('model.')}": tensor
        for name, tensor in tensors.items()
        if any(part in name for part in _TEXT)
    }
    return attention | {"prior.text": embedding}


T = TypeVar("T")


def _network(entries: Mapping[str, T]) -> dict[str, T]:
    """Entries of a tokenizer without prefix, averages and derived tables."""
    return {
        name.removeprefix("network."): entry
        for name, entry in entries.items()
        if not name.startswith("ema.") and name.rpartition(".")[2] not in _TABLES
    }
