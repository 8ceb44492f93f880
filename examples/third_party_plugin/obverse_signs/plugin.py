"""What the plugin provides. Only records: torch is imported when a component is used."""

from __future__ import annotations

from obverse_registry import Component, hookimpl


@hookimpl
def obverse_components() -> list[Component]:
    """Return the components of this plugin."""
    return [
        Component("quantizer", "signs", "obverse_signs.quantizer:SignQuantizer", "one bit per latent channel"),
        Component(
            "codec",
            "pocket-signs",
            "obverse_signs:configs/pocket-signs.yaml",
            "pocket-vq's transforms with signs for tokens, 8 bits a token",
            licence="Apache-2.0",
        ),
    ]
