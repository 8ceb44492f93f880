"""Names of components and the plugins that provide them; knows neither torch nor Obverse.

A plugin is a module behind an entry point of the group `obverse`:

    from obverse_registry import Component, hookimpl

    @hookimpl
    def obverse_components():
        return [Component("prior", "mine", "obverse_mine.model:Prior", "What it is, in one line")]
"""

from __future__ import annotations

from obverse_registry.component import KINDS, Component
from obverse_registry.discovery import Plugin, Registry, registry
from obverse_registry.errors import RegistryError, UnknownComponentError
from obverse_registry.hooks import hookimpl

__all__ = [
    "KINDS",
    "Component",
    "Plugin",
    "Registry",
    "RegistryError",
    "UnknownComponentError",
    "hookimpl",
    "registry",
]
