"""Files of https://github.com/InterDigitalInc/CompressAI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from obverse import compressai
from obverse.checkpoints import CheckpointFormat, Shapes

_PARTS = {
    "g_a": "encoder.analysis",
    "g_s": "encoder.synthesis",
    "h_a": "encoder.hyper_analysis",
    "h_s": "prior.hyper_synthesis",
    "context_prediction": "prior.context_prediction",
    "entropy_parameters": "prior.entropy_parameters",
}
_CODING = {"entropy_bottleneck", "gaussian_conditional"}
_EVERYWHERE = {"g_a", "g_s", "entropy_bottleneck"}


class ModelFormat(CheckpointFormat):
    """Models of one rate: transforms g_a and g_s, and the networks of a hyperprior and a context where they have one.

    Names are those of the papers, which others use too; so files with any further network are of another kind.
    """

    names: ClassVar[tuple[str, ...]] = (
        "entropy_bottleneck.quantiles",
        "g_a.1.gamma",
        "g_s.1.gamma",
        "g_a.0.gdn.gamma",
        "h_a.0.weight",
        "h_s.0.weight",
    )

    def recognises(self, shapes: Shapes) -> bool:
        networks = {compressai.current_name(name).partition(".")[0] for name in shapes}
        return _EVERYWHERE <= networks <= {*_PARTS, *_CODING}

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = compressai.gdn(compressai.current(tensors))
        density = compressai.density(tensors, "entropy_bottleneck")
        ours = {f"prior.density.{name}": tensor for name, tensor in density.items()}
        for name, tensor in tensors.items():
            network, _, rest = name.partition(".")
            if network == "entropy_parameters" and tensor.ndim == 4:
                tensor = tensor.flatten(1)  # 1x1 convolutions are perceptrons here
            if network not in _CODING:
                ours[f"{_PARTS[network]}.{rest}"] = tensor
        return ours


class VariableRateFormat(CheckpointFormat):
    """Models with gains per rate, which are told apart to be refused."""

    names: ClassVar[tuple[str, ...]] = ("Gain", "QuantABCD.0.weight")

    def recognises(self, shapes: Shapes) -> bool:
        return {*self.names, "g_a.0.weight"} <= {compressai.current_name(name) for name in shapes}

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise ValueError("variable-rate models of CompressAI are not supported; take a file of one rate")
