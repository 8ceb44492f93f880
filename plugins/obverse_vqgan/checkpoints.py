"""Files of taming-transformers that hold a transformer; `obverse.taming` has those of its tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes
from obverse.taming import TokenizerFile

T = TypeVar("T")

_FIRST, _SECOND, _CONDITION = "first_stage_model.", "transformer.", "cond_stage_model."


class TransformerFile(CheckpointFormat):
    """`GPT` by itself. Masks, which follow from the number of positions, are left out."""

    names: ClassVar[tuple[str, ...]] = ("tok_emb.weight", "pos_emb", "blocks.0.attn.key.weight", "head.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return shapes.keys() >= set(self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".attn.mask")}
        return {f"prior.{_ours(name)}": tensor for name, tensor in kept.items()}


class Net2NetFile(CheckpointFormat):
    """`Net2NetTransformer`: a tokenizer, a transformer over its tokens, and a network for the condition, left out."""

    names: ClassVar[tuple[str, ...]] = (
        *(_FIRST + name for name in TokenizerFile.names),
        *(_SECOND + name for name in TransformerFile.names),
    )

    def __init__(self) -> None:
        self.first, self.second = TokenizerFile(), TransformerFile()

    def recognises(self, shapes: Shapes) -> bool:
        return self.first.recognises(_below(_FIRST, shapes)) and self.second.recognises(_below(_SECOND, shapes))

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        others = {k: v for k, v in tensors.items() if not k.startswith((_FIRST, _SECOND, _CONDITION))}
        unknown = {f"prior.{name}": value for name, value in others.items()}  # strict loading names them
        first, second = _below(_FIRST, tensors), _below(_SECOND, tensors)
        return self.first.translate(first) | self.second.translate(second) | unknown


def _ours(name: str) -> str:
    return f"blocks_.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name


def _below(prefix: str, entries: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
