"""Imports go one way: registry, then core, then plugins; plugins know nothing of each other."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("core", "registry", "plugins")


def packages(layer: str) -> list[Path]:
    """Return the package folders of a layer."""
    return sorted(init.parent for init in (ROOT / layer).glob("*/__init__.py"))


def imported(package: Path) -> dict[str, str]:
    """Return the top-level packages a package imports, anywhere in its code, each with one place."""
    found: dict[str, str] = {}
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""] if node.level == 0 else [package.name]
            else:
                continue
            for module in modules:
                found[module.partition(".")[0]] = f"{file.relative_to(ROOT)}:{node.lineno}"
    return found


def ours(package: Path) -> dict[str, str]:
    """Return the packages of this project that a package imports, without itself."""
    return {
        name: place
        for name, place in imported(package).items()
        if (name == "obverse" or name.startswith("obverse_")) and name != package.name
    }


def run(program: str) -> str:
    """Run a program with the three source roots on the path, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / layer) for layer in LAYERS)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def entry_points() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["entry-points"]["obverse"])


def test_the_layers_are_where_they_belong() -> None:
    assert [package.name for package in packages("core")] == ["obverse"]
    assert [package.name for package in packages("registry")] == ["obverse_registry"]
    assert all(package.name.startswith("obverse_") for package in packages("plugins"))
    assert packages("plugins")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_not_a_package(layer: str) -> None:
    assert not (ROOT / layer / "__init__.py").exists(), "modules would be imported twice, as core.x and x"


def test_the_registry_needs_only_pluggy() -> None:
    (package,) = packages("registry")
    allowed = sys.stdlib_module_names | {"pluggy", package.name}
    assert {name: place for name, place in imported(package).items() if name not in allowed} == {}


def test_the_core_knows_no_plugin() -> None:
    (package,) = packages("core")
    assert {name: place for name, place in ours(package).items() if name != "obverse_registry"} == {}


@pytest.mark.parametrize("package", packages("plugins"), ids=lambda package: package.name)
def test_a_plugin_knows_no_other_plugin(package: Path) -> None:
    allowed = {"obverse", "obverse_registry"}
    assert {name: place for name, place in ours(package).items() if name not in allowed} == {}


def test_every_package_with_a_plugin_module_has_an_entry_point() -> None:
    modules = {
        f"{package.name}.plugin"
        for layer in ("core", "plugins")
        for package in packages(layer)
        if (package / "plugin.py").exists()
    }
    assert modules == set(entry_points().values())


@pytest.mark.parametrize("package", ["obverse", "obverse_registry"])
def test_importing_leaves_torch_out(package: str) -> None:
    assert run(f"import sys, {package}; print('torch' in sys.modules)") == "False"


def test_listing_leaves_torch_out() -> None:
    program = (
        "import importlib, sys\n"
        "from obverse_registry import Registry\n"
        "registry = Registry(entry_points=[])\n"
        f"for name, module in {entry_points()!r}.items():\n"
        "    registry.add(importlib.import_module(module), name)\n"
        "assert registry.components()\n"
        "print('torch' in sys.modules)\n"
    )
    assert run(program) == "False"
