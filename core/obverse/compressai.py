"""Names in checkpoints of CompressAI, which many codecs are built with."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Coder tables and constants: they follow from the weights, and every codec here makes its own.
_TABLES = re.compile(
    r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|target"
    r"|(likelihood_lower_bound|lower_bound_scale)\.bound|(beta|gamma)_reparam\..+)$"
)
_OLD_DENSITY = re.compile(r"(^|\.)_(matri|bias|factor)(?:ces|es|s|x)?\.?(\d)$")
_PLURAL = {"matri": "matrices", "bias": "biases", "factor": "factors"}

# Of the parameters of GDN; they are trained as roots, a pedestal away from zero.
_MINIMA = {"beta": 1e-6, "gamma": 0.0}
_PEDESTAL = 2.0**-36


def current_name(name: str) -> str:
    """The name that CompressAI 1.2.8 uses for a tensor, from any version's."""
    name = name.removeprefix("module.").replace(".downsample.", ".skip.")
    return _OLD_DENSITY.sub(lambda match: f"{match[1]}{_PLURAL[match[2]]}.{match[3]}", name)


def current(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their current names, without coder tables and constants."""
    named = {current_name(name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not _TABLES.search(name)}


def density(tensors: Mapping[str, Tensor], bottleneck: str) -> dict[str, Tensor]:
    """Tensors of `obverse.nn.density.FactorizedDensity` from those of an `EntropyBottleneck`.

    Args:
        tensors: as `current` gives them.
        bottleneck: name of the module, as `entropy_bottleneck`.

    Raises:
        KeyError: the quantiles, whose middle is the median, are missing.
    """
    prefix = f"{bottleneck}."
    ours = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    quantiles = ours.pop("quantiles", None)
    if quantiles is None:
        raise KeyError(f"{prefix}quantiles")
    return ours | {"medians": quantiles[:, 0, 1]}


def gdn(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors, where those of GDN layers (`….beta`, `….gamma`) become what they count as, from what is trained.

    effective = max(raw, sqrt(minimum + 2**-36))**2 - 2**-36, with a minimum of 1e-6 for beta and 0 for gamma.

    Args:
        tensors: as `current` gives them.
    """
    return {name: _effective(tensor, _MINIMA.get(name.rpartition(".")[2])) for name, tensor in tensors.items()}


def _effective(raw: Tensor, minimum: float | None) -> Tensor:
    if minimum is None:
        return raw
    return raw.double().clamp(min=(minimum + _PEDESTAL) ** 0.5).square().sub(_PEDESTAL).float()
