"""Numerics modes: how the numbers between symbols and frequencies are computed, so that a decoder finds the same ones.

mode         arithmetic                                              who can decode
---------    ----------------------------------------------------    -----------------------------------------
exact        integer-exact layers (`obverse.exact`)                  every machine
guarded64    float64, rounded away from borders (`obverse.guarded`)  every machine with float64, within a margin
native       the prior's own dtype, step by step                     the environment that wrote the stream
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from obverse.errors import ConfigError
from obverse_registry.errors import did_you_mean

if TYPE_CHECKING:
    import torch

    from obverse.interfaces import Prior

EXACT, GUARDED64, NATIVE = "exact", "guarded64", "native"
MODES = (EXACT, GUARDED64, NATIVE)

NUMBERS = {GUARDED64: 0, EXACT: 1, NATIVE: 2}
"""Numbers by which streams name the modes."""

SPECIFICATION = 2
"""The newest version of the rules from a prior's numbers to frequencies, 1 to 7. A prior names its own, which streams
tell: 1 for tokens; 2 for latents, with escapes that cost less than those of version 1, which is not read any more."""


class UnsupportedModeError(ConfigError):
    """The prior cannot run in that mode."""


def check_mode(mode: str | None) -> None:
    """Refuse a name that is no mode; None is the prior's safest.

    Raises:
        ConfigError: with the nearest name.
    """
    if mode is not None and mode not in MODES:
        raise ConfigError(f"no numerics mode {mode!r}{did_you_mean(mode, MODES)} (modes: {', '.join(MODES)})")


def prepare(prior: Prior, mode: str | None = None) -> Prior:
    """A prior that computes in a mode.

    Args:
        prior: with its weights loaded, on the CPU. It is changed itself, unless its exact form takes its place.
        mode: one of `MODES`; None for exact where the prior has an exact form, for guarded64 otherwise.

    Raises:
        ConfigError: no such mode, or one that the prior does not have.
    """
    import torch
    from torch import nn

    check_mode(mode)
    if mode is None:
        mode = EXACT if prior.exact else GUARDED64
    if mode == EXACT and not prior.exact:
        raise UnsupportedModeError(
            f"prior {type(prior).__name__} has no exact form: its numerics modes are {GUARDED64} and {NATIVE}"
        )
    if isinstance(prior, nn.Module):
        if mode == EXACT:
            from obverse.exact import convert

            prior = convert(prior)
        else:
            prior.to(torch.float64 if mode == GUARDED64 else prior.dtype)
    prior.numerics = mode
    return prior


def environment(device: torch.device) -> str:
    """What native numbers depend on, beside weights and input, in at most 200 bytes of UTF-8."""
    import torch

    parts = [
        f"torch {torch.__version__}",
        f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        f"{torch.get_num_threads()} threads",
        f"mkldnn {'on' if torch.backends.mkldnn.enabled else 'off'}",
        f"matmul {torch.get_float32_matmul_precision()}",
    ]
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        parts.append(f"{torch.cuda.get_device_name(device)}, cuda {torch.version.cuda}, cudnn {cudnn}")
    else:
        parts.append(device.type)
    return ", ".join(parts)[:200]
