"""Official files, as state dicts: QRes-VAE and QARV (github.com/duanzhiihao/lossy-vae), DHVC and DHIC
(github.com/NJUVISION/DHVC)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

# Coder tables and constants: they follow from the configuration.
_DERIVED = re.compile(r"(^|\.)(discrete_gaussian|up_bound)\.|(^|\.)_dummy$")
_NAMES = {
    "conv_dw": "depthwise",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "embedding_layer": "modulation",
    "downsapmle": "down",
}
"""Parts of official names, and ours."""


def _ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without constants, with layers inside blocks named as here; factors `gamma` become vectors."""
    found = {}
    for key, tensor in tensors.items():
        if not _DERIVED.search(key):
            for theirs, ours in _NAMES.items():
                key = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.)", rf"\g<1>{ours}", key)
            found[key] = tensor.flatten() if key.rpartition(".")[2] == "gamma" else tensor
    return found


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a prefix, without it; they are removed from `tensors`, so that what is left over can be told."""
    return {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}


def _numbered(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Tensors of the entries of a module list, by number, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, rest = key.partition(".")
        found.setdefault(int(number), {})[rest] = tensor
    return dict(sorted(found.items()))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _renamed(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with one of `names`, with that beginning replaced.

    Raises:
        ValueError: a name begins with none of them.
    """
    found = {}
    for key, tensor in tensors.items():
        theirs = next((beginning for beginning in names if key.startswith(beginning)), None)
        if theirs is None:
            raise ValueError(f"no part takes {key!r}")
        found[names[theirs] + key.removeprefix(theirs)] = tensor
    return found


def _stages(layers: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of `obverse_lossyvae.bottom_up.BottomUp` from those of the flat list of its layers.

    A convolution, on its own or inside a block, begins a stage. The block before or around it leaves the finer grid.
    """
    found: dict[str, Tensor] = {}
    stage, count = -1, 0
    for number, layer in layers.items():
        inner = "down.weight" if "down.weight" in layer else "1.weight"
        if "weight" in layer or inner in layer:
            stage, count = stage + 1, 0
        if "weight" in layer:
            found |= _prefixed(f"stages.{stage}.down.", layer)
        elif "down.weight" in layer:
            parts = {key: f"stages.{stage}.{'' if key.startswith('down.') else 'bridge.'}{key}" for key in layer}
            found |= {name: layer[key] for key, name in parts.items()}
        elif "1.weight" in layer:
            found |= _renamed({"0.": f"stages.{stage}.bridge.", "1.": f"stages.{stage}.down."}, layer)
        elif "weight" in layers.get(number + 1, {}):
            found |= _prefixed(f"stages.{stage + 1}.bridge.", layer)
        else:
            found |= _prefixed(f"stages.{stage}.blocks.{count}.", layer)
            count += 1
    return found


def _latent_blocks(layers: Mapping[int, Mapping[str, Tensor]]) -> list[int]:
    """Numbers of the latent blocks."""
    return [number for number, layer in layers.items() if any(key.startswith("z_proj.") for key in layer)]


_FRONT = {"resnet_front.": "front.", "prior.": "head."}
_ENTRY = {"z_proj.": "entry.projection.", "resnet_end.": "entry.end."}


class QResFormat(CheckpointFormat):
    """QRes-VAE, also the lossless one, whose two last networks predict pixels."""

    names: ClassVar[tuple[str, ...]] = ("decoder.bias", "decoder.dec_blocks.0.resnet_front.conv_dw.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return "decoder.dec_blocks.0.resnet_front.conv_dw.weight" in shapes

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = _ours(tensors)
        found = {"prior.bias": tensors.pop("decoder.bias")}
        found |= _prefixed("encoder.analysis.", _stages(_numbered(_taken("encoder.enc_blocks.", tensors))))
        layers = _numbered(_taken("decoder.dec_blocks.", tensors))
        latents = _latent_blocks(layers)
        pixels = _taken("out_net.", tensors)
        if pixels:
            names = {"conv_mean.": "mean.", "conv_scale.": "log_scale."}
            found |= _renamed(_within(f"prior.layers.{latents[-1] + 1}.", names), pixels)
        for number, layer in layers.items():
            if number not in latents:
                here = "encoder.synthesis." if number > latents[-1] else f"prior.layers.{number}."
                found |= _prefixed(here, layer)
                continue
            entered = "encoder." if number == latents[-1] and not pixels else f"prior.layers.{number}."
            posterior = f"quantizer.posteriors.{latents.index(number)}.layers."
            layer = {_bottleneck(key): tensor for key, tensor in layer.items()}
            found |= _renamed(
                {
                    **_within(f"prior.layers.{number}.", _FRONT),
                    **_within(entered, _ENTRY),
                    "posterior.": posterior,
                },
                layer,
            )
        return found | _prefixed("encoder.", tensors)


def _within(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: prefix + ours for theirs, ours in names.items()}


def _bottleneck(key: str) -> str:
    """Convolutions c1 to c4 of a bottleneck are every second layer of a sequence."""
    return re.sub(r"^(prior|posterior)\.c(\d)\.", lambda match: f"{match[1]}.{2 * int(match[2]) - 1}.", key)


class QARVFormat(CheckpointFormat):
    """QARV."""

    names: ClassVar[tuple[str, ...]] = ("lmb_embedding.0.weight", "dec_blocks.0.post_merge.weight")

    def recognises(self, shapes: Shapes) -> bool:
        # The R-D model of the same authors, which is no codec, holds the ways to coarser grids in its blocks.
        return "lmb_embedding.0.weight" in shapes and not any(".downsapmle." in name for name in shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = _ours(tensors)
        found = {"prior.bias": tensors.pop("bias")}
        found |= _prefixed("encoder.analysis.", _stages(_numbered(_taken("encoder.enc_blocks.", tensors))))
        embedding = _taken("lmb_embedding.", tensors)
        found |= _prefixed("prior.lambda_embedding.mlp.", embedding)
        found |= _prefixed("encoder.lambda_embedding.mlp.", embedding)
        layers = _numbered(_taken("dec_blocks.", tensors))
        latents = _latent_blocks(layers)
        above = [number for number in layers if number > latents[-1]]
        for number, layer in layers.items():
            if number in above:
                found |= _prefixed(f"encoder.synthesis.{above.index(number)}.", layer)
            elif number not in latents:
                found |= _prefixed(f"prior.layers.{number}.", layer)
            else:
                entered = "encoder." if number == latents[-1] else f"prior.layers.{number}."
                names = {
                    **_within(f"prior.layers.{number}.", _FRONT),
                    **_within(entered, _ENTRY),
                    **_within(f"quantizer.posteriors.{latents.index(number)}.", _POSTERIOR),
                }
                found |= _renamed(names, layer)
        return found | _prefixed("encoder.", tensors)


_POSTERIOR = {
    "posterior0.": "of_encoded.",
    "posterior1.": "of_feature.",
    "post_merge.": "merge.",
    "posterior2.": "of_both.",
    "posterior.": "head.",
}


class DHVCFormat(CheckpointFormat):
    """The first frame's part of DHVC 1.0, which is all of it: later frames have other contexts and no other weights.

    Where latents enter is in the prior and in the encoder, whose path to the picture needs it too. What the path of
    features computes after the last latents is looked at by nothing, and left out.
    """

    names: ClassVar[tuple[str, ...]] = ("bias_list.0", "dec_blocks.0.tcp.enc1.0.weight", "fea_blocks.1.gamma")

    def recognises(self, shapes: Shapes) -> bool:
        return "dec_blocks.0.tcp.enc1.0.weight" in shapes

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = _ours(tensors)
        found = {"prior.bias": tensors.pop("bias")}
        found |= _prefixed("encoder.analysis.", _stages(_numbered(_taken("encoder.enc_blocks.", tensors))))
        layers = _numbered(_taken("dec_blocks.", tensors))
        latents = _latent_blocks(layers)
        for key, tensor in _taken("bias_list.", tensors).items():
            found[f"prior.layers.{latents[int(key)]}.past"] = tensor
        for number, layer in _numbered(_taken("fea_blocks.", tensors)).items():
            if number < latents[-1]:
                found |= _prefixed(f"prior.layers.{number}.", layer)
        for number, layer in layers.items():
            if number not in latents:
                found |= _prefixed(f"encoder.synthesis.{number}.", layer)
                continue
            shared = {key: tensor for key, tensor in layer.items() if key.startswith(tuple(_ENTRY))}
            if number != latents[-1]:
                found |= _renamed(_within(f"prior.layers.{number}.", _ENTRY), shared)
            names = {
                **_within(f"prior.layers.{number}.", _FRONT | _TEMPORAL),
                **_within(f"encoder.synthesis.{number}.", _ENTRY | {"dec_merge.": "merge.", "resnet_dec.": "block."}),
                **_within(f"quantizer.posteriors.{latents.index(number)}.", _POSTERIOR),
            }
            found |= _renamed(names, layer)
        return found | _prefixed("encoder.", tensors)


_TEMPORAL = {
    "tcp.enc1.": "temporal.past.down.",
    "tcp.dec1.": "temporal.past.up.",
    "tcp.enc2.": "temporal.present.down.",
    "tcp.dec2.": "temporal.present.up.",
    "tcp.end_fuse.": "temporal.end.",
}


_MIXING = {
    "pc1": "first",
    "pc2": "second",
    "mixer.conv1": "mixer.cell",
    "mixer.conv": "mixer.neighbours",
    "ffn": "feed_forward",
    "outlayer": "last",
    "adaptor": "shortcut",
    "pw1": "widen",
    "pw2": "narrow",
    "merge": "block",
    "enc_resblock": "of_encoded",
    "posterior": "of_both",
}
"""Parts of DHIC's names, and ours."""


class DHICFormat(CheckpointFormat):
    """DHIC.

    Windowed convolutions get their window, which is a constant, multiplied in. Where latents enter is in the prior and
    in the encoder, whose path to the picture needs it too.
    """

    names: ClassVar[tuple[str, ...]] = ("em_bias", "dec_bias", "enc1_lmb_embedding", "em_blocks.2.prior.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return "em_bias" in shapes

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = _windowed(_mixing(_ours(tensors)))
        found = {"prior.bias": tensors.pop("em_bias"), "encoder.bias": tensors.pop("dec_bias")}
        layers = _numbered(_taken("em_blocks.", tensors))
        latents = _latent_blocks(layers)
        upward = _numbered(_taken("dec_blocks.", tensors))
        merges = [number for number, layer in upward.items() if any(key.startswith("last.") for key in layer)]
        if len(merges) != len(latents):
            raise ValueError(f"{len(latents)} latent blocks, but {len(merges)} that merge them")
        found |= _dhic_stages(_numbered(_taken("encoder.enc_blocks.", tensors)))
        for number, layer in layers.items():
            if number not in latents:
                found |= _prefixed(f"prior.layers.{number}.", layer)
                continue
            index = latents.index(number)
            entry = {key: tensor for key, tensor in layer.items() if key.startswith("z_proj.")}
            if number != latents[-1]:
                found |= _renamed(_within(f"prior.layers.{number}.", _ENTRY), entry)
            names = {
                "prior.": f"prior.layers.{number}.head.",
                "z_proj.": f"encoder.synthesis.{merges[index]}.entry.projection.",
                "of_": f"quantizer.posteriors.{index}.of_",
            }
            found |= _renamed(names, layer)
        for number, layer in upward.items():
            found |= _prefixed(f"encoder.synthesis.{number}.", layer)
        for place, (number, merge) in enumerate(zip(latents, merges, strict=True)):
            tables = {
                f"enc{place + 1}_lmb_embedding": f"encoder.log_gains.{place}",
                f"em{place + 1}_lmb_embedding": f"prior.layers.{number}.log_gain",
                f"dec{place + 1}_lmb_embedding": f"encoder.synthesis.{merge}.log_gain",
                f"z{place + 1}_scale_embedding": f"prior.layers.{number}.log_step",
            }
            found |= {ours: tensors.pop(theirs) for theirs, ours in tables.items()}
        return found | _prefixed("encoder.", tensors)


def _mixing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, tensor in tensors.items():
        for theirs, ours in _MIXING.items():
            key = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.)", rf"\g<1>{ours}", key)
        found[key] = tensor
    return found


def _windowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights times their windows."""
    for key in [key for key in tensors if key.endswith(".Phi")]:
        layer = key.removesuffix(".Phi")
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * tensors.pop(key)
        tensors.pop(f"{layer}.alfa", None)
    return tensors


def _dhic_stages(layers: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the bottom-up path: a convolution on its own begins a stage, blocks before the first are the stem."""
    found: dict[str, Tensor] = {}
    stage, count = -1, 1  # the first layer of the stem has no weights
    for layer in layers.values():
        if "weight" in layer:
            stage, count = stage + 1, 0
        here = "encoder.stem" if stage < 0 else f"encoder.stages.{stage}"
        found |= _prefixed(f"{here}.{count}.", layer)
        count += 1
    return found
