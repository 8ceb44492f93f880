from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import obverse_registry
from obverse_registry import (
    Component,
    Plugin,
    Registry,
    RegistryError,
    UnknownComponentError,
    discovery,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conftest import Site


def provides(*components: tuple[str, str]) -> str:
    """Return the source of a plugin module that provides these (kind, name) pairs."""
    records = [
        f"Component({kind!r}, {name!r}, {'a:c.yaml' if kind == 'codec' else 'a.b:C'!r})" for kind, name in components
    ]
    return hooked(f"return [{', '.join(records)}]")


def hooked(body: str, name: str = "obverse_components()") -> str:
    """Return the source of a plugin module whose hook has this body."""
    return f"from obverse_registry import Component, hookimpl\n@hookimpl\ndef {name}:\n    {body}\n"


class InProcess:
    def __init__(self, *components: Component) -> None:
        self._components = components

    @hookimpl
    def obverse_components(self) -> Iterable[Component]:
        yield from self._components


def names(registry: Registry) -> list[str]:
    return [plugin.name for plugin in registry.plugins()]


def only_failure(registry: Registry) -> Plugin:
    (failure,) = registry.failures()
    return failure


# What is found, and in which order


def test_components_carry_their_plugin(site: Site) -> None:
    site.install("obverse-foo", foo=provides(("prior", "foo"), ("codec", "foo.small")))
    registry = site.registry()
    (plugin,) = registry.plugins()
    assert (plugin.name, plugin.distribution, plugin.version) == ("foo", "obverse-foo", "1.0")
    assert plugin.module == "obverse_foo_foo_plugin"
    assert plugin.kinds == ("prior", "codec")
    assert plugin.components == (registry.get("prior", "foo"), registry.get("codec", "foo.small"))
    assert registry.get("prior", "foo").plugin == "foo"
    assert (plugin.error, plugin.traceback, registry.failures()) == (None, "", ())
    assert str(plugin) == "plugin 'foo' (obverse-foo 1.0)"


def test_own_distribution_comes_first_then_by_distribution_and_name(site: Site) -> None:
    site.install("aaa", z=provides(("prior", "z")), b=provides(("prior", "b")))
    site.install("obverse-foo", a=provides(("prior", "a")))
    site.install("obverse", y=provides(("prior", "y")), core=provides(("prior", "core")))
    assert names(site.registry()) == ["core", "y", "b", "z", "a"]


def test_components_are_filtered_and_sorted(site: Site) -> None:
    pairs = [("prior", "b.two"), ("metric", "a"), ("encoder", "b"), ("prior", "b.one"), ("prior", "a")]
    site.install("obverse-foo", foo=provides(*pairs))
    registry = site.registry()

    def found(*filters: str | None) -> list[str]:
        return [f"{component.kind} {component.name}" for component in registry.components(*filters)]

    assert found() == ["encoder b", "prior a", "prior b.one", "prior b.two", "metric a"]
    assert found("prior") == ["prior a", "prior b.one", "prior b.two"]
    assert found("prior", "b.*") == ["prior b.one", "prior b.two"]
    assert found(None, "a") == ["prior a", "metric a"]
    assert found("coder") == []


def test_a_generator_is_a_fine_hook(site: Site) -> None:
    site.install("obverse-foo", foo=hooked("yield Component('prior', 'foo', 'a:B')"))
    assert site.registry().get("prior", "foo").target == "a:B"


def test_no_components_are_fine(site: Site) -> None:
    site.install("obverse-foo", foo=hooked("return []"))
    assert site.registry().plugins()[0].error is None


def test_other_entry_point_groups_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[str] = []

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        groups.append(group)
        return []

    monkeypatch.delenv("OBVERSE_PLUGINS", raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert Registry().plugins() == ()
    assert groups == ["obverse"]


# Names nobody provides


def test_unknown_name_suggests_and_lists(site: Site) -> None:
    site.install("obverse-foo", foo=provides(("prior", "llamagen"), ("prior", "var"), ("coder", "range")))
    with pytest.raises(
        UnknownComponentError,
        match=r"^no prior named 'llamagn'; did you mean 'llamagen'\? \(installed: llamagen, var\)$",
    ) as caught:
        site.registry().get("prior", "llamagn")
    assert isinstance(caught.value, RegistryError)
    assert isinstance(caught.value, LookupError)


def test_unknown_name_without_anything_near(site: Site) -> None:
    site.install("obverse-foo", foo=provides(("prior", "var")))
    with pytest.raises(UnknownComponentError, match=r"^no prior named 'llamagen' \(installed: var\)$"):
        site.registry().get("prior", "llamagen")
    with pytest.raises(UnknownComponentError, match=r"^no coder named 'range' \(no coder is installed\)$"):
        site.registry().get("coder", "range")


def test_unknown_name_mentions_the_plugins_that_failed(site: Site) -> None:
    site.install("obverse-foo", foo="import surely_absent")
    with pytest.raises(
        UnknownComponentError,
        match=r"plugins that failed to load: foo \(ModuleNotFoundError: No module named 'surely_absent'\)$",
    ):
        site.registry().get("prior", "foo")


@pytest.mark.parametrize(
    "ask", [lambda registry: registry.get("codecs", "a"), lambda registry: registry.components("codecs")]
)
def test_unknown_kind_suggests(site: Site, ask: Callable[[Registry], object]) -> None:
    with pytest.raises(UnknownComponentError, match=r"no component kind 'codecs'; did you mean 'codec'\?"):
        ask(site.registry())


# Plugins that fail


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import surely_absent", r"^ModuleNotFoundError: No module named 'surely_absent'$"),
        ("raise SystemExit", "^SystemExit$"),
        ("raise ValueError('two\\n  lines')", "^ValueError: two lines$"),
        ("def broken(:", "^SyntaxError: "),
        (hooked("raise KeyError('x')"), "^KeyError: 'x'$"),
        (hooked("raise SystemExit('bye')"), "^SystemExit: bye$"),
        (hooked("yield 1 / 0"), "^ZeroDivisionError: division by zero$"),
        (
            hooked("return ['llamagen']"),
            "^obverse_components returned 'llamagen', expected Component records$",
        ),
        (hooked("return None"), "^obverse_components returned None, expected Component records$"),
        (hooked("return 3"), "^TypeError: 'int' object is not iterable$"),
        (hooked("return [Component('prior', 'Foo', 'a:B')]"), "^invalid prior name 'Foo'; "),
        (provides(("prior", "a"), ("prior", "a")), r"^plugin 'bad' \(bad 1\.0\) provides prior 'a' twice$"),
        (
            hooked("return []", "obverse_component()"),
            "^unknown hook 'obverse_component' .*'obverse_components'$",
        ),
        (hooked("return []", "obverse_components(register)"), "^PluginValidationError: .*'register'"),
        ("def obverse_components():\n    return []", "^it implements no hook; mark .* with @hookimpl$"),
    ],
)
def test_one_bad_plugin_leaves_the_others_alone(site: Site, source: str, reason: str) -> None:
    site.install("aaa", first=provides(("prior", "first")))
    site.install("bad", bad=source)
    site.install("ccc", last=provides(("prior", "last")))
    registry = site.registry()
    assert [component.name for component in registry.components()] == ["first", "last"]
    assert names(registry) == ["first", "bad", "last"]
    failure = only_failure(registry)
    assert (failure.name, failure.components, failure.kinds) == ("bad", (), ())
    assert failure.error is not None
    assert "\n" not in failure.error
    with pytest.raises(RegistryError, match=reason):
        raise RegistryError(failure.error)
    assert failure.traceback.startswith("Traceback (most recent call last):")


def test_keyboard_interrupt_is_not_a_failure(site: Site) -> None:
    site.install("bad", bad="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.registry()


def test_a_taken_component_fails_the_later_plugin_as_a_whole(site: Site) -> None:
    site.install("aaa", foo=provides(("prior", "extra"), ("prior", "llamagen")))
    site.install("obverse", core=provides(("prior", "llamagen"), ("encoder", "extra")))
    registry = site.registry()
    assert registry.get("prior", "llamagen").plugin == "core"
    assert [component.kind for component in registry.components(pattern="extra")] == ["encoder"]
    assert only_failure(registry).error == (
        "prior 'llamagen' of plugin 'foo' (aaa 1.0) is already registered by plugin 'core' (obverse 1.0); "
        "rename one or uninstall one of the two"
    )


def test_a_taken_plugin_name_fails_the_later_plugin(site: Site) -> None:
    site.install("aaa", core=provides(("prior", "a")))
    site.install("obverse", core=provides(("prior", "b")))
    registry = site.registry()
    assert [component.name for component in registry.components()] == ["b"]
    failure = only_failure(registry)
    assert failure.distribution == "aaa"
    assert failure.error == "the name 'core' is taken by plugin 'core' (obverse 1.0); rename the entry point"


def test_damaged_metadata_stops_nobody(site: Site) -> None:
    site.install("obverse-foo", foo=provides(("prior", "foo")))
    site.install("bad", bad=provides(("prior", "bad")))
    (site.folder / "bad-1.0.dist-info" / "METADATA").unlink()
    assert [component.name for component in site.registry().components()] == ["bad", "foo"]


# Environment and strict mode


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("", ["core", "pocket"]),
        (" ,", ["core", "pocket"]),
        ("foo", ["foo"]),
        (" foo, core,", ["core", "foo"]),
    ],
)
def test_selection(site: Site, monkeypatch: pytest.MonkeyPatch, selection: str, expected: list[str]) -> None:
    site.install("obverse", core=provides(("prior", "a")), pocket=provides(("prior", "b")))
    site.install("obverse-foo", foo=provides(("prior", "c")), bar="raise RuntimeError('imported')")
    monkeypatch.setenv("OBVERSE_PLUGINS", selection)
    registry = site.registry()
    assert names(registry) == expected
    assert registry.failures() == ()


def test_selecting_an_absent_plugin_is_a_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("obverse", core=provides(("prior", "a")), pocket=provides(("prior", "b")))
    monkeypatch.setenv("OBVERSE_PLUGINS", "core,poket")
    registry = site.registry()
    assert [component.name for component in registry.components()] == ["a"]
    assert only_failure(registry).error == (
        "OBVERSE_PLUGINS names it, but it is not installed; did you mean 'pocket'? (installed: core, pocket)"
    )


def test_strict_mode_raises_the_first_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("bad", bad="raise SystemExit(3)")
    with pytest.raises(RegistryError, match=r"^plugin 'bad' \(bad 1\.0\) failed to load: SystemExit: 3$") as caught:
        site.registry(strict=True)
    assert isinstance(caught.value.__cause__, SystemExit)
    monkeypatch.setenv("OBVERSE_STRICT_PLUGINS", "1")
    with pytest.raises(RegistryError, match="failed to load"):
        site.registry()
    assert only_failure(site.registry(strict=False)).name == "bad"
    monkeypatch.setenv("OBVERSE_STRICT_PLUGINS", "0")
    assert only_failure(site.registry()).name == "bad"


# Plugins of this process


def test_add_and_remove(site: Site) -> None:
    registry = site.registry()
    plugin = InProcess(Component("metric", "a", "fractions:Fraction"))
    added = registry.add(plugin, "mine")
    assert registry.plugins() == (added,)
    assert str(added) == "plugin 'mine' (added in this process)"
    assert added.module.endswith(":InProcess")
    assert registry.get("metric", "a").plugin == "mine"
    registry.remove("mine")
    assert (registry.plugins(), registry.components()) == ((), ())
    assert registry.add(plugin, "again").kinds == ("metric",)


def test_add_a_module(site: Site) -> None:
    module = ModuleType("notebook")
    exec(provides(("prior", "a")), module.__dict__)
    assert site.registry().add(module, "mine").module == "notebook"


def test_add_raises_and_leaves_nothing(site: Site) -> None:
    registry = site.registry()
    first = InProcess(Component("metric", "a", "a:B"))
    registry.add(first, "first")
    second = InProcess(Component("metric", "b", "a:B"), Component("metric", "a", "a:B"))
    with pytest.raises(
        RegistryError,
        match=r"^plugin 'second' \(added in this process\) failed to load: metric 'a' of plugin 'second' .*"
        r"already registered by plugin 'first'",
    ):
        registry.add(second, "second")
    with pytest.raises(RegistryError, match=r"the name 'first' is taken by plugin 'first'"):
        registry.add(second, "first")
    with pytest.raises(RegistryError, match=r"ValueError: Plugin already registered under a different name"):
        registry.add(first, "third")
    assert names(registry) == ["first"]
    assert registry.failures() == ()
    registry.remove("first")
    assert registry.add(second, "second").error is None


def test_remove_an_unknown_plugin(site: Site) -> None:
    registry = site.registry()
    registry.add(InProcess(), "pocket")
    with pytest.raises(RegistryError, match=r"no plugin named 'poket'; did you mean 'pocket'\? \(installed: pocket\)"):
        registry.remove("poket")


def test_a_failed_plugin_can_be_removed_and_replaced(site: Site) -> None:
    site.install("bad", bad="import surely_absent")
    registry = site.registry()
    registry.remove("bad")
    assert registry.failures() == ()
    assert registry.add(InProcess(), "bad").error is None


# The registry of the environment


def test_registry_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBVERSE_PLUGINS", "")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [])
    discovery.registry.cache_clear()
    try:
        assert obverse_registry.registry() is obverse_registry.registry()
    finally:
        discovery.registry.cache_clear()


def test_installed_distributions_are_found_and_nothing_heavy_is_imported(site: Site) -> None:
    site.install("obverse-foo", foo=provides(("prior", "foo")), worse="import surely_absent")
    program = dedent(
        """
        import sys
        from obverse_registry import registry
        assert registry().get("prior", "foo").plugin == "foo"
        assert [plugin.name for plugin in registry().failures()] == ["worse"]
        print(*sorted({"torch", "numpy", "omegaconf", "typer", "obverse"} & set(sys.modules)))
        """
    )
    root = Path(obverse_registry.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), str(site.folder)]),
        "OBVERSE_PLUGINS": "foo,worse",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.strip()) == ("", "")


def test_everything_exported_exists() -> None:
    assert all(hasattr(obverse_registry, name) for name in obverse_registry.__all__)
