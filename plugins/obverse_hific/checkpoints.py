"""Files of https://github.com/Justin-Tan/high-fidelity-generative-compression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes

# The discriminator; tables of the coder, and the density under the name by which the coder knows it.
_UNUSED = ("Discriminator.", "Hyperprior.hyperprior_entropy_model.", "Hyperprior.prior_entropy_model.")

_DENSITY = "Hyperprior.hyperlatent_likelihood."
_DENSITY_ARRAYS = {"H": "matrices", "a": "factors", "b": "biases"}

_RENAMED = (
    (r"Encoder\.conv_block(\d)\.", lambda m: f"encoder.analysis.stages.{int(m[1]) - 1}."),
    (r"Encoder\.conv_block_out\.", "encoder.analysis.last."),
    (r"Generator\.conv_block_init\.", "encoder.synthesis.head."),
    (r"Generator\.resblock_(\d+)\.", r"encoder.synthesis.blocks.\1."),
    (r"Generator\.upconv_block(\d)\.", lambda m: f"encoder.synthesis.doubling.{int(m[1]) - 1}."),
    (r"Generator\.conv_block_out\.", "encoder.synthesis.last."),
    (r"Hyperprior\.analysis_net\.conv1\.", "encoder.hyper_analysis.0."),
    (r"Hyperprior\.analysis_net\.conv([23])\.", lambda m: f"encoder.hyper_analysis.{2 * int(m[1]) - 2}.1."),
    (r"Hyperprior\.synthesis_mu\.conv(\d)\.", lambda m: f"prior.mean.{2 * int(m[1]) - 2}."),
    (r"Hyperprior\.synthesis_std\.conv(\d)\.", lambda m: f"prior.scale.{2 * int(m[1]) - 2}."),
    (rf"{re.escape(_DENSITY)}([Hab])_(\d)$", lambda m: f"prior.density.{_DENSITY_ARRAYS[m[1]]}.{m[2]}"),
)
_TRANSPOSED = re.compile(r"Hyperprior\.synthesis_(mu|std)\.conv3\.weight")


class HificFile(CheckpointFormat):
    """The whole model, with or without its discriminator."""

    names: ClassVar[tuple[str, ...]] = (
        "Encoder.conv_block1.1.weight",
        "Generator.conv_block_init.0.gamma",
        "Hyperprior.synthesis_mu.conv1.weight",
        f"{_DENSITY}H_0",
    )

    def recognises(self, shapes: Shapes) -> bool:
        return all(name in shapes for name in self.names)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
        ours = {_our_name(name): _our_kernel(name, tensor) for name, tensor in kept.items()}
        first = tensors[f"{_DENSITY}H_0"]
        return ours | {"prior.density.medians": first.new_zeros(len(first))}


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMED:
        renamed, found = re.subn(f"^{pattern}", ours, name)
        if found:
            return renamed
    return f"encoder.{name}"


def _our_kernel(name: str, tensor: Tensor) -> Tensor:
    """A transposed convolution that does not stride is a convolution with its kernel turned round."""
    return tensor.transpose(0, 1).flip(2, 3) if _TRANSPOSED.fullmatch(name) else tensor
