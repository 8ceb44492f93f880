"""Checkpoints of ELIC's reimplementations: CompressAI, VincentChandelier/ELiC-ReImplemetation, JiangWeibeta/ELIC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from obverse import compressai
from obverse.checkpoints import CheckpointFormat, Shapes
from obverse.nn.masked import checkerboard_taps

Names = Sequence[tuple[str, str]]
"""Patterns of official names, and ours."""

_LAST_HYPER_LAYER = "prior.hyper_synthesis.4.weight"
_CELLWISE = re.compile(r"prior\.groups\.\d+\.(entropy|anchor)_parameters\.\d+\.weight")
_PARAMETERS = re.compile(r"prior\.groups\.\d+\.(entropy|anchor)_parameters\.4\.(weight|bias)")
_SPATIAL = re.compile(r"(prior\.groups\.\d+\.spatial_context\.)weight")


class _ElicFormat(CheckpointFormat):
    """What the formats share.

    1x1 convolutions over the channels of cells become `nn.Linear`. Masks follow from the architecture: those of the
    file are left out.

    Attributes:
        table: patterns of names, and ours.
        bottleneck: name of the density of z.
    """

    table: ClassVar[Names]
    bottleneck: ClassVar[str]

    def recognises(self, shapes: Shapes) -> bool:
        return {compressai.current_name(name) for name in shapes}.issuperset(self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = compressai.current(tensors)
        density = compressai.density(tensors, self.bottleneck)
        found = {f"prior.density.{name}": tensor for name, tensor in density.items()}
        for name, tensor in tensors.items():
            if not name.startswith(f"{self.bottleneck}."):
                ours = self._renamed(name)
                found[ours] = tensor[:, :, 0, 0] if _CELLWISE.fullmatch(ours) else tensor
                if match := _SPATIAL.fullmatch(ours):
                    found[f"{match[1]}mask"] = checkerboard_taps(tensor.shape[-1]).expand_as(tensor).to(tensor.dtype)
        return found

    def _renamed(self, name: str) -> str:
        for pattern, ours in self.table:
            if match := re.fullmatch(pattern, name):
                return match.expand(ours)
        return f"prior.{name}"  # unknown: strict loading tells


class CompressAIFormat(_ElicFormat):
    """`Elic2022Official` and `Elic2022Chandelier` of CompressAI, which have the same names.

    The last layer of the hyper-synthesis is a transposed convolution of stride 1 in the first class, which becomes the
    same convolution not transposed, and a convolution in the second, which has means before scales.
    """

    names = ("latent_codec.y.channel_context.y1.0.weight", "latent_codec.y.latent_codec.y0.entropy_parameters.0.weight")
    bottleneck = "latent_codec.hyper.entropy_bottleneck"
    table = (
        (r"g_a\.(.+)", r"encoder.analysis.\1"),
        (r"g_s\.(.+)", r"encoder.synthesis.\1"),
        (r"latent_codec\.hyper\.h_a\.(.+)", r"encoder.hyper_analysis.\1"),
        (r"latent_codec\.hyper\.h_s\.(.+)", r"prior.hyper_synthesis.\1"),
        (r"latent_codec\.y\.channel_context\.y(\d+)\.(.+)", r"prior.groups.\1.channel_context.\2"),
        (r"latent_codec\.y\.latent_codec\.y(\d+)\.context_prediction\.(.+)", r"prior.groups.\1.spatial_context.\2"),
        (r"latent_codec\.y\.latent_codec\.y(\d+)\.entropy_parameters\.(.+)", r"prior.groups.\1.entropy_parameters.\2"),
    )

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = super().translate(tensors)
        # [in, out, 3, 3] where it is transposed; there in and out differ.
        if len(found[_LAST_HYPER_LAYER]) != len(found["prior.hyper_synthesis.4.bias"]):
            return _convolved(found)
        return _scales_first(found)


class ChandelierFormat(_ElicFormat):
    """VincentChandelier/ELiC-ReImplemetation, whose means come before its scales."""

    names = ("cc_transforms.0.0.weight", "ParamAggregation.0.0.weight")
    bottleneck = "entropy_bottleneck"
    table = (
        (r"g_a\.(.+)", r"encoder.analysis.\1"),
        (r"g_s\.(.+)", r"encoder.synthesis.\1"),
        (r"h_a\.(.+)", r"encoder.hyper_analysis.\1"),
        (r"h_s\.(.+)", r"prior.hyper_synthesis.\1"),
        (r"cc_transforms\.(\d+)\.(.+)", r"prior.groups.\1.channel_context.\2"),
        (r"context_prediction\.(\d+)\.(.+)", r"prior.groups.\1.spatial_context.\2"),
        (r"ParamAggregation\.(\d+)\.(.+)", r"prior.groups.\1.entropy_parameters.\2"),
    )

    def _renamed(self, name: str) -> str:
        # The first of these networks is that of the second group.
        counted = re.sub(r"^cc_transforms\.(\d+)", lambda match: f"cc_transforms.{int(match[1]) + 1}", name)
        return super()._renamed(counted)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _scales_first(super().translate(tensors))


class JiangFormat(_ElicFormat):
    """JiangWeibeta/ELIC: anchors have networks of their own, and the spatial context has no mask.

    Its spatial context sees zeros in the cells that the mask hides, so that with the mask nothing changes.
    """

    names = ("local_context.0.weight", "entropy_parameters_anchor.0.fusion.0.weight")
    bottleneck = "entropy_bottleneck"
    table = (
        (r"g_a\.analysis_transform\.(\d+)\.branch\.0\.(\w+)", r"encoder.analysis.\1.conv1.\2"),
        (r"g_a\.analysis_transform\.(\d+)\.branch\.2\.(\w+)", r"encoder.analysis.\1.conv2.\2"),
        (r"g_a\.analysis_transform\.(\d+)\.branch\.4\.(\w+)", r"encoder.analysis.\1.conv3.\2"),
        (r"g_a\.analysis_transform\.(.+)", r"encoder.analysis.\1"),
        (r"g_s\.synthesis_transform\.(\d+)\.branch\.0\.(\w+)", r"encoder.synthesis.\1.conv1.\2"),
        (r"g_s\.synthesis_transform\.(\d+)\.branch\.2\.(\w+)", r"encoder.synthesis.\1.conv2.\2"),
        (r"g_s\.synthesis_transform\.(\d+)\.branch\.4\.(\w+)", r"encoder.synthesis.\1.conv3.\2"),
        (r"g_s\.synthesis_transform\.(.+)", r"encoder.synthesis.\1"),
        (r"h_a\.reduction\.(.+)", r"encoder.hyper_analysis.\1"),
        (r"h_s\.increase\.(.+)", r"prior.hyper_synthesis.\1"),
        (r"channel_context\.(\d+)\.fushion\.(.+)", r"prior.groups.\1.channel_context.\2"),
        (r"local_context\.(\d+)\.(.+)", r"prior.groups.\1.spatial_context.\2"),
        (r"entropy_parameters_anchor\.(\d+)\.fusion\.(.+)", r"prior.groups.\1.anchor_parameters.\2"),
        (r"entropy_parameters_nonanchor\.(\d+)\.fusion\.(.+)", r"prior.groups.\1.entropy_parameters.\2"),
    )

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _convolved(super().translate(tensors))


def _convolved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last layer of the hyper-synthesis as a convolution: a transposed one of stride 1, its kernels turned."""
    turned = tensors[_LAST_HYPER_LAYER].transpose(0, 1).flip(2, 3)
    return tensors | {_LAST_HYPER_LAYER: turned}


def _scales_first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means and scales exchanged in what the groups' networks give."""
    return {
        name: tensor.roll(len(tensor) // 2, 0) if _PARAMETERS.fullmatch(name) else tensor
        for name, tensor in tensors.items()
    }
