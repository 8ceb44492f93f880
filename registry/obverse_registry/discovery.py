"""Finding plugins, and what they provide, without letting one stop another.

Plugins are the entry points of the group `obverse`. Those of our own distribution register first, so that
nobody can take a bundled name; the others follow in the order of distribution and entry-point name. A plugin
that fails, for whatever reason, is recorded with the reason and leaves nothing behind.

Two environment variables steer it:

    OBVERSE_PLUGINS         unset: every plugin. A comma-separated list of entry-point names: only these.
                            Empty: only the bundled ones.
    OBVERSE_STRICT_PLUGINS  1: the first plugin that fails raises an error (for plugin authors).
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import traceback
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING

import pluggy

from obverse_registry import hooks
from obverse_registry.component import KINDS, Component, one_line, unknown_kind
from obverse_registry.errors import RegistryError, UnknownComponentError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

GROUP = "obverse"
OWN_DISTRIBUTION = "obverse"


@dataclass(frozen=True)
class Plugin:
    """One plugin, loaded or failed.

    Args:
        name: its entry-point name.
        distribution: the installed distribution it belongs to; empty for one added in this process.
        version: the version of that distribution.
        module: the entry point's target.
        components: what it provides; empty where it failed.
        error: why it failed, in one line, or None.
        traceback: the whole traceback of the failure.
    """

    name: str
    distribution: str = ""
    version: str = ""
    module: str = ""
    components: tuple[Component, ...] = ()
    error: str | None = None
    traceback: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of component it provides, in the order of `KINDS`."""
        provided = {component.kind for component in self.components}
        return tuple(kind for kind in KINDS if kind in provided)

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version}".strip() or "added in this process"
        return f"plugin {self.name!r} ({origin})"


class Registry:
    """The plugins of this environment and the components they provide.

    Args:
        strict: raise the first failure instead of recording it; None asks OBVERSE_STRICT_PLUGINS.
        entry_points: where to look; None means the installed distributions.

    Raises:
        RegistryError: a plugin failed, in strict mode; `__cause__` is the original error.

    >>> class Example:
    ...     @hooks.hookimpl
    ...     def obverse_components(self):
    ...         return [Component("metric", "fraction", "fractions:Fraction")]
    >>> registry = Registry(entry_points=[])
    >>> registry.add(Example(), "example").kinds
    ('metric',)
    """

    def __init__(self, *, strict: bool | None = None, entry_points: Iterable[EntryPoint] | None = None) -> None:
        if strict is None:
            strict = os.environ.get("OBVERSE_STRICT_PLUGINS", "") not in ("", "0")
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=GROUP)
        self._strict = strict
        self._manager = pluggy.PluginManager("obverse")
        self._manager.add_hookspecs(hooks)
        self._plugins: list[Plugin] = []
        self._components: dict[tuple[str, str], Component] = {}
        self._discover(entry_points)

    def get(self, kind: str, name: str) -> Component:
        """Return the component of that kind and name.

        Raises:
            UnknownComponentError: there is none; the message names the nearest and what is installed.
        """
        component = self._components.get((kind, name))
        if component is None:
            raise UnknownComponentError(self._explain_missing(kind, name))
        return component

    def components(self, kind: str | None = None, pattern: str | None = None) -> tuple[Component, ...]:
        """Return the components, sorted by kind (in the order of `KINDS`) and name.

        Args:
            kind: only those of this kind.
            pattern: only names that match this glob, such as `vqgan.*`.

        Raises:
            UnknownComponentError: there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise UnknownComponentError(unknown_kind(kind))
        chosen = [
            component
            for component in self._components.values()
            if kind in (None, component.kind) and (pattern is None or fnmatchcase(component.name, pattern))
        ]
        return tuple(sorted(chosen, key=lambda component: (KINDS.index(component.kind), component.name)))

    def plugins(self) -> tuple[Plugin, ...]:
        """Return every plugin, in the order they were tried, the failed ones included."""
        return tuple(self._plugins)

    def failures(self) -> tuple[Plugin, ...]:
        """Return the plugins that failed to load."""
        return tuple(plugin for plugin in self._plugins if plugin.error is not None)

    def add(self, plugin: object, name: str) -> Plugin:
        """Register a plugin of this process, for tests and notebooks.

        Args:
            plugin: a module, or an object whose methods carry `hookimpl`.
            name: a name no other plugin has.

        Raises:
            RegistryError: it cannot be registered; nothing of it stays, and no failure is recorded.
        """
        module = getattr(plugin, "__name__", None) or f"{type(plugin).__module__}:{type(plugin).__qualname__}"
        record = Plugin(name, module=module)
        try:
            return self._register(plugin, record)
        except (Exception, SystemExit) as error:
            raise RegistryError(f"{record} failed to load: {one_line(error)}") from error

    def remove(self, name: str) -> None:
        """Forget a plugin and its components.

        Raises:
            RegistryError: there is no plugin of that name.
        """
        names = sorted({plugin.name for plugin in self._plugins})
        if name not in names:
            known = ", ".join(names) or "none"
            raise RegistryError(f"no plugin named {name!r}{did_you_mean(name, names)} (installed: {known})")
        self._unregister(name)
        self._plugins = [plugin for plugin in self._plugins if plugin.name != name]
        self._components = {key: item for key, item in self._components.items() if item.plugin != name}

    def _discover(self, entry_points: Iterable[EntryPoint]) -> None:
        found = [(_describe(entry_point), entry_point) for entry_point in entry_points]
        found.sort(key=lambda pair: (not _is_own(pair[0]), pair[0].distribution, pair[0].name))
        selection = os.environ.get("OBVERSE_PLUGINS")
        if selection is not None:
            wanted = {name.strip() for name in selection.split(",")} - {""}
            self._note_absent(wanted, {record.name for record, _ in found})
            found = [pair for pair in found if (pair[0].name in wanted if wanted else _is_own(pair[0]))]
        for record, entry_point in found:
            try:
                self._register(entry_point.load(), record)
            except (Exception, SystemExit) as error:
                self._fail(record, error)

    def _note_absent(self, wanted: set[str], installed: set[str]) -> None:
        for name in sorted(wanted - installed):
            known = ", ".join(sorted(installed)) or "none"
            hint = did_you_mean(name, installed)
            reason = f"OBVERSE_PLUGINS names it, but it is not installed{hint} (installed: {known})"
            self._fail(Plugin(name), RegistryError(reason))

    def _fail(self, record: Plugin, error: BaseException) -> None:
        reason = one_line(error)
        if self._strict:
            raise RegistryError(f"{record} failed to load: {reason}") from error
        text = "".join(traceback.format_exception(error))
        self._plugins.append(replace(record, error=reason, traceback=text))

    def _register(self, plugin: object, record: Plugin) -> Plugin:
        taken = next((other for other in self._plugins if other.name == record.name), None)
        if taken is not None:
            raise RegistryError(f"the name {record.name!r} is taken by {taken}; rename the entry point")
        try:
            self._manager.register(plugin, record.name)
            components = self._collect(plugin, record)
        except BaseException:
            self._unregister(record.name)
            raise
        self._components.update(components)
        record = replace(record, components=tuple(components.values()))
        self._plugins.append(record)
        return record

    def _unregister(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _collect(self, plugin: object, record: Plugin) -> dict[tuple[str, str], Component]:
        collected: dict[tuple[str, str], Component] = {}
        for component in self._call_hook(plugin):
            if not isinstance(component, Component):
                raise RegistryError(f"obverse_components returned {component!r}, expected Component records")
            key = (component.kind, component.name)
            if key in collected:
                raise RegistryError(f"{record} provides {component.kind} {component.name!r} twice")
            if key in self._components:
                owner = next(other for other in self._plugins if other.name == self._components[key].plugin)
                raise RegistryError(
                    f"{component.kind} {component.name!r} of {record} is already registered by {owner}; "
                    "rename one or uninstall one of the two"
                )
            collected[key] = replace(component, plugin=record.name)
        return collected

    def _call_hook(self, plugin: object) -> Iterable[object]:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise RegistryError(f"{error}; the hook is named 'obverse_components'") from error
        if not self._manager.get_hookcallers(plugin):
            raise RegistryError("it implements no hook; mark obverse_components with @hookimpl")
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        results = self._manager.subset_hook_caller("obverse_components", others)()
        if not results:  # pluggy drops None
            raise RegistryError("obverse_components returned None, expected Component records")
        return chain.from_iterable(results)

    def _explain_missing(self, kind: str, name: str) -> str:
        if kind not in KINDS:
            return unknown_kind(kind)
        names = [component.name for component in self.components(kind)]
        known = f"installed: {', '.join(names)}" if names else f"no {kind} is installed"
        message = f"no {kind} named {name!r}{did_you_mean(name, names)} ({known})"
        failed = ", ".join(f"{plugin.name} ({plugin.error})" for plugin in self.failures())
        return f"{message}; plugins that failed to load: {failed}" if failed else message


@functools.cache
def registry() -> Registry:
    """Return the registry of the installed plugins, built on the first call."""
    return Registry()


def _is_own(plugin: Plugin) -> bool:
    return plugin.distribution == OWN_DISTRIBUTION


def _describe(entry_point: EntryPoint) -> Plugin:
    try:
        distribution = entry_point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("", "")
    except Exception:  # damaged metadata of one distribution must not stop the others
        name = version = ""
    return Plugin(entry_point.name, name or "", version or "", entry_point.value)
