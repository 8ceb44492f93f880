"""The hooks a plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from obverse_registry.component import Component

hookspec = pluggy.HookspecMarker("obverse")
hookimpl = pluggy.HookimplMarker("obverse")


@hookspec
def obverse_components() -> Iterable[Component]:  # type: ignore[empty-body]
    """Return the components this plugin provides."""
