"""Files of Lumina-mGPT.

The tokenizer's file, `vqgan.ckpt`, is one of taming-transformers in names and layout (`obverse.taming`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

_NORM = "model.layers.0.self_attn.q_norm.bias"

_IN_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}


class LuminaTransformer(CheckpointFormat):
    """The transformer as transformers saves it.

    Norms of queries and keys have one set of weights for all heads (Lumina-mGPT), or one for each (transformers).
    Tensors of `model.vqmodel` are left out: they are the analysis half of the tokenizer, which `vqgan.ckpt` has whole.
    """

    names: ClassVar[tuple[str, ...]] = ("model.embed_tokens.weight", _NORM, "lm_head.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return "model.embed_tokens.weight" in shapes and len(shapes.get(_NORM, ())) == 2

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = {key: value for key, value in tensors.items() if not key.startswith("model.vqmodel.")}
        return {f"prior.model.{_name(key)}": _for_each_head(key, kept) for key in kept}


def _name(key: str) -> str:
    module, _, kind = key.rpartition(".")
    if match := re.fullmatch(r"model\.(layers\.\d+)\.(.+)", module):
        return f"{match[1]}.{_IN_LAYER.get(match[2], match[2])}.{kind}"
    return f"{_OUTSIDE.get(module, module)}.{kind}"


def _for_each_head(key: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor, that of a norm [R, d] repeated to [H, d]."""
    tensor = tensors[key]
    match = re.fullmatch(r"(.+\.[qk])_norm\.(weight|bias)", key)
    if not match:
        return tensor
    heads = len(tensors[f"{match[1]}_proj.weight"]) // tensor.shape[1]
    return tensor.repeat_interleave(heads // len(tensor), 0)
