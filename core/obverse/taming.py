"""Tokenizer files of taming-transformers, which the first stages of other systems share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

_PARTS = {
    "encoder.": "encoder.encoder.",
    "decoder.": "encoder.decoder.",
    "quant_conv.": "encoder.quant_conv.",
    "post_quant_conv.": "encoder.post_quant_conv.",
    "quantize.": "quantizer.",
}
_EXTRAS = ("loss.", "model_ema.", "quantize.used")  # networks of the loss, averages, codes in use
_QUANTIZERS = ({"embedding.weight"}, {"proj.weight", "proj.bias", "embed.weight"})


class TokenizerFile(CheckpointFormat):
    """`VQModel` and `GumbelVQ`, also of latent-diffusion and of Chameleon."""

    names: ClassVar[tuple[str, ...]] = (
        "encoder.down.0.block.0.conv1.weight",
        "decoder.up.0.block.0.conv1.weight",
        "quant_conv.weight",
    )

    def recognises(self, shapes: Shapes) -> bool:
        quantizer = {name.removeprefix("quantize.") for name in shapes if name.startswith("quantize.")}
        return quantizer - {"used"} in _QUANTIZERS and shapes.keys() >= set(self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_ours(name): tensor for name, tensor in tensors.items() if not name.startswith(_EXTRAS)}


def _ours(name: str) -> str:
    for theirs, ours in _PARTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"encoder.{name}"  # which the encoder does not have: strict loading names it
