"""Files of https://github.com/FoundationVision/LlamaGen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

_MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}


class TokenizerFormat(CheckpointFormat):
    """VQ-16 and VQ-8: the autoencoder of taming-transformers, its levels in the order in which they run."""

    names: ClassVar[tuple[str, ...]] = ("encoder.conv_blocks.0.res.0.conv1.weight", "quantize.embedding.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return all(name in shapes for name in self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = (re.match(r"decoder\.conv_blocks\.(\d+)\.", name) for name in tensors)
        last = max((int(match[1]) for match in found if match), default=0)

        def ours(name: str) -> str:
            if name == "quantize.embedding.weight":
                return "quantizer.embedding.weight"
            name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
            name = re.sub(r"^decoder\.conv_blocks\.(\d+)", lambda match: f"decoder.up.{last - int(match[1])}", name)
            name = re.sub(r"^((?:en|de)coder\.(?:down|up)\.\d+)\.res\.", r"\1.block.", name)
            name = re.sub(r"^((?:en|de)coder\.mid)\.([012])\.", lambda match: f"{match[1]}.{_MIDDLE[match[2]]}.", name)
            return f"encoder.{name}"

        # How often codes were used in training; of one length whatever the codebook's size.
        return {ours(name): tensor for name, tensor in tensors.items() if name != "quantize.codebook_used"}


class PriorFormat(CheckpointFormat):
    """Class-conditional GPT of every size."""

    names: ClassVar[tuple[str, ...]] = ("cls_embedding.embedding_table.weight", "layers.0.attention.wqkv.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return all(name in shapes for name in self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def ours(name: str) -> str:
            return f"prior.model.{name.replace('cls_embedding.embedding_table.', 'cls_embedding.')}"

        # Old files have the table of rotary positions, which follows from the sizes.
        return {ours(name): tensor for name, tensor in tensors.items() if name != "freqs_cis"}
