"""Throw-away distributions on the import path, as an installer would leave them."""

from __future__ import annotations

import importlib.metadata
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from obverse_registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Site:
    """A folder of installed distributions.

    Args:
        folder: an empty folder that is on `sys.path`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str = "") -> Path:
        """Write a file below the folder, with its parents."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return file

    def install(self, distribution: str, **plugins: str) -> None:
        """Add a distribution of version 1.0; each plugin is an entry-point name and its module's source."""
        info = f"{distribution.replace('-', '_')}-1.0.dist-info"
        self.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        modules = {name: f"{distribution}_{name}_plugin".replace("-", "_") for name in plugins}
        for name, source in plugins.items():
            self.write(f"{modules[name]}.py", source)
        lines = [f"{name} = {module}" for name, module in modules.items()]
        self.write(f"{info}/entry_points.txt", "\n".join(["[obverse]", *lines, ""]))

    def registry(self, *, strict: bool | None = None) -> Registry:
        """Return a registry that sees only this folder."""
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return Registry(strict=strict, entry_points=[point for dist in found for point in dist.entry_points])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.delenv("OBVERSE_PLUGINS", raising=False)
    monkeypatch.delenv("OBVERSE_STRICT_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield Site(tmp_path)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
