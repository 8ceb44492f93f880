"""Files of taming-transformers and of the first stages of latent-diffusion, which have the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

T = TypeVar("T")

_TOKENIZER = ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight", "quant_conv.weight")
_TRANSFORMER = ("tok_emb.weight", "pos_emb", "blocks.0.attn.key.weight", "head.weight")
_PARTS = {
    "encoder.": "encoder.encoder.",
    "decoder.": "encoder.decoder.",
    "quant_conv.": "encoder.quant_conv.",
    "post_quant_conv.": "encoder.post_quant_conv.",
    "quantize.": "quantizer.",
}
_TOKENIZER_EXTRAS = ("loss.", "model_ema.", "quantize.used")  # networks of the loss, averages, codes in use
_QUANTIZERS = ({"embedding.weight"}, {"proj.weight", "proj.bias", "embed.weight"})
_FIRST, _SECOND, _CONDITION = "first_stage_model.", "transformer.", "cond_stage_model."


def _is_tokenizer(shapes: Shapes) -> bool:
    quantizer = {name.removeprefix("quantize.") for name in shapes if name.startswith("quantize.")}
    return quantizer - {"used"} in _QUANTIZERS and shapes.keys() >= set(_TOKENIZER)


def _is_transformer(shapes: Shapes) -> bool:
    return shapes.keys() >= set(_TRANSFORMER)


def _tokenizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = {name: value for name, value in tensors.items() if not name.startswith(_TOKENIZER_EXTRAS)}
    return {_tokenizer_name(name): value for name, value in kept.items()}


def _tokenizer_name(name: str) -> str:
    for theirs, ours in _PARTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"encoder.{name}"  # which the encoder does not have: strict loading names it


def _transformer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks follow from the number of positions."""
    kept = {name: value for name, value in tensors.items() if not name.endswith(".attn.mask")}
    return {f"prior.{_transformer_name(name)}": value for name, value in kept.items()}


def _transformer_name(name: str) -> str:
    return f"blocks_.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name


def _below(prefix: str, entries: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}


class TokenizerFile(CheckpointFormat):
    """`VQModel` and `GumbelVQ`."""

    names: ClassVar[tuple[str, ...]] = _TOKENIZER

    def recognises(self, shapes: Shapes) -> bool:
        return _is_tokenizer(shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _tokenizer(tensors)


class TransformerFile(CheckpointFormat):
    """`GPT` by itself."""

    names: ClassVar[tuple[str, ...]] = _TRANSFORMER

    def recognises(self, shapes: Shapes) -> bool:
        return _is_transformer(shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _transformer(tensors)


class Net2NetFile(CheckpointFormat):
    """`Net2NetTransformer`: a tokenizer, a transformer over its tokens, and a network for the condition, left out."""

    names: ClassVar[tuple[str, ...]] = (
        *(_FIRST + name for name in _TOKENIZER),
        *(_SECOND + name for name in _TRANSFORMER),
    )

    def recognises(self, shapes: Shapes) -> bool:
        return _is_tokenizer(_below(_FIRST, shapes)) and _is_transformer(_below(_SECOND, shapes))

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        others = {k: v for k, v in tensors.items() if not k.startswith((_FIRST, _SECOND, _CONDITION))}
        unknown = {f"prior.{name}": value for name, value in others.items()}  # strict loading names them
        return _tokenizer(_below(_FIRST, tensors)) | _transformer(_below(_SECOND, tensors)) | unknown
