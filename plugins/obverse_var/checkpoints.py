"""Official files of VAR (github.com/FoundationVision/VAR), as state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

_PHI = re.compile(r"quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.(\w+)")


class TokenizerFormat(CheckpointFormat):
    """Autoencoder and multi-scale quantizer.

    Codebook and phi convolutions go to the quantizer, and to the prior, which rebuilds the latent from tokens and whose
    own file does not hold them. The fused convolution of attention becomes three; the counts of used codes,
    `ema_vocab_hit_SV`, are left out.
    """

    def recognises(self, shapes: Shapes) -> bool:
        return any(_PHI.fullmatch(key) for key in shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            if key == "quantize.ema_vocab_hit_SV":
                continue
            if key == "quantize.embedding.weight":
                _share(found, "codebook.weight", tensor)
            elif match := _PHI.fullmatch(key):
                _share(found, "phi.{}.{}".format(*match.groups()), tensor)
            elif ".qkv." in key:
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    found["encoder." + key.replace(".qkv.", f".{part}.")] = piece
            else:
                found[f"encoder.{key}"] = tensor
        return found


def _share(found: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    found[f"quantizer.scales.{name}"] = found[f"prior.scales.{name}"] = tensor


_NAMES = {
    r"pos_start": "start",
    r"pos_1LC": "positions",
    r"word_embed\.(\w+)": r"word_embedding.\1",
    r"class_emb\.(\w+)": r"class_embedding.\1",
    r"lvl_embed\.(\w+)": r"level_embedding.\1",
    r"shared_ada_lin\.1\.(\w+)": r"shared.layers.1.\1",
    r"head_nm\.ada_lin\.1\.(\w+)": r"norm_modulation.layers.1.\1",
    r"blocks\.(\d+)\.ada_lin\.1\.(\w+)": r"layers.\1.modulation.layers.1.\2",
    r"blocks\.(\d+)\.ada_gss": r"layers.\1.modulation.offset",
    r"blocks\.(\d+)\.attn\.mat_qkv\.weight": r"layers.\1.attention.qkv.weight",
    r"blocks\.(\d+)\.attn\.scale_mul_1H11": r"layers.\1.attention.scale.log_scale",
    r"blocks\.(\d+)\.attn\.proj\.(\w+)": r"layers.\1.attention.proj.\2",
    r"blocks\.(\d+)\.ffn\.fc1\.(\w+)": r"layers.\1.feed_forward.0.\2",
    r"blocks\.(\d+)\.ffn\.fc2\.(\w+)": r"layers.\1.feed_forward.2.\2",
}
"""Patterns of official names, and ours. Others stay as they are."""

_LEFT_OUT = {"lvl_1L", "attn_bias_for_masking"}
_BIAS = re.compile(r"blocks\.(\d+)\.attn\.(q_bias|zero_k_bias|v_bias)")


class TransformerFormat(CheckpointFormat):
    """The transformer, with AdaLN per block or shared.

    The biases of queries, keys (zeros, never trained) and values become one vector. The tables of levels and of the
    mask are left out: they follow from the sides of the scales.
    """

    def recognises(self, shapes: Shapes) -> bool:
        return {"pos_1LC", "lvl_embed.weight"} <= shapes.keys()

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        biases: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if match := _BIAS.fullmatch(key):
                biases.setdefault(match[1], {})[match[2]] = tensor
            elif key not in _LEFT_OUT:
                found[f"prior.model.{_renamed(key)}"] = tensor
        for number, parts in biases.items():
            joined = torch.cat([parts[name] for name in ("q_bias", "zero_k_bias", "v_bias")])
            found[f"prior.model.layers.{number}.attention.qkv.bias"] = joined
        return found


def _renamed(key: str) -> str:
    for pattern, name in _NAMES.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key


_TRANSFORMER, _TOKENIZER = "var_wo_ddp.", "vae_local."


class TrainerFormat(CheckpointFormat):
    """Both in one file, as the official trainer saves them."""

    def recognises(self, shapes: Shapes) -> bool:
        return f"{_TRANSFORMER}pos_1LC" in shapes

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        transformer, tokenizer = _under(_TRANSFORMER, tensors), _under(_TOKENIZER, tensors)
        return TokenizerFormat().translate(tokenizer) | TransformerFormat().translate(transformer)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
