"""The record a plugin registers: a name, and where to find what it names."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse_registry.errors import RegistryError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = (
    "encoder",
    "quantizer",
    "prior",
    "coder",
    "codec",
    "task",
    "metric",
    "anchor",
    "dataset",
    "checkpoint",
    "command",
)
"""What a component can be, in the order listings show them."""

_WORDS = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_NAME = re.compile(rf"{_WORDS}(?:\.{_WORDS})?")
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_OBJECT_TARGET = re.compile(rf"{_DOTTED}:{_DOTTED}")
# No part of the path may start with a dot, so it cannot leave the package.
_FILE_TARGET = re.compile(rf"{_DOTTED}:(?:\w[\w.-]*/)*\w[\w.-]*\.yaml")


@dataclass(frozen=True)
class Component:
    """One named thing a plugin provides. Nothing is imported until it is loaded.

    Args:
        kind: one of `KINDS`.
        name: lower-case `a-z`, `0-9` and hyphens, a variant after one dot: `vqgan.f16-1024`.
        target: `package.module:Attribute`. For the kind `codec` the part after the colon is a YAML file
            inside the package instead: `package:relative/path.yaml`.
        summary: one line for listings.
        licence: SPDX identifier of the code or weights behind the name.
        details: further facts to show, such as the source or the training data.
        plugin: the plugin it came from. The registry fills this in; plugins leave it out.

    Raises:
        RegistryError: the kind, the name or the target is malformed.

    >>> Component("metric", "psnr", "fractions:Fraction").load()
    <class 'fractions.Fraction'>
    """

    kind: str
    name: str
    target: str
    summary: str = ""
    licence: str = ""
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    plugin: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RegistryError(unknown_kind(self.kind))
        if not _NAME.fullmatch(self.name):
            raise RegistryError(
                f"invalid {self.kind} name {self.name!r}; expected lower-case a-z, 0-9 and inner hyphens, "
                "and at most one dot before a variant, such as 'vqgan.f16-1024'"
            )
        pattern, form = (
            (_FILE_TARGET, "package:relative/path.yaml")
            if self.kind == "codec"
            else (_OBJECT_TARGET, "package.module:Attribute")
        )
        if not pattern.fullmatch(self.target):
            raise RegistryError(f"{self}: invalid target {self.target!r}; expected {form!r}")

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" of plugin {self.plugin!r}" if self.plugin else "")

    def load(self) -> Any:
        """Import the target and return what it names.

        Raises:
            RegistryError: the import fails, or the component is a codec; `__cause__` is the original error.
        """
        if self.kind == "codec":
            raise RegistryError(f"{self} is a file, not an object; use resource()")
        module, _, attribute = self.target.partition(":")
        try:
            return reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (Exception, SystemExit) as error:
            raise RegistryError(f"{self}: cannot load {self.target!r}: {one_line(error)}") from error

    def resource(self) -> Path:
        """Return the path of a codec's file. No code of the package is executed.

        Raises:
            RegistryError: the component is not a codec, its package is absent or zipped, or has no such file.
        """
        if self.kind != "codec":
            raise RegistryError(f"{self} is an object, not a file; use load()")
        package, _, relative = self.target.partition(":")
        folders = self._package_folders(package)
        for folder in folders:
            if (folder / relative).is_file():
                return folder / relative
        places = ", ".join(map(str, folders))
        raise RegistryError(f"{self}: the package {package!r} has no file {relative!r} (looked in {places})")

    def _package_folders(self, package: str) -> list[Path]:
        # find_spec("a.b") would import a; the folder of b follows from that of a without running anything.
        root, *inner = package.split(".")
        try:
            spec = importlib.util.find_spec(root)
        except (ImportError, ValueError):  # ValueError: in sys.modules, but not from the import system
            spec = None
        if spec is None or spec.submodule_search_locations is None:
            raise RegistryError(f"{self}: no installed package {root!r} to hold {self.target!r}")
        locations = [Path(location) for location in spec.submodule_search_locations]
        if not any(location.is_dir() for location in locations):
            places = ", ".join(map(str, locations))
            raise RegistryError(
                f"{self}: the package {root!r} is not a folder on disk ({places}); "
                "a codec's file cannot be read from a zipped package, install it unpacked"
            )
        return [location.joinpath(*inner) for location in locations]


def unknown_kind(kind: str) -> str:
    """Return the message for a kind that does not exist."""
    return f"no component kind {kind!r}{did_you_mean(kind, KINDS)} (kinds: {', '.join(KINDS)})"


def one_line(error: BaseException) -> str:
    """Return an error as one line; our own errors speak for themselves, others need their type."""
    text = " ".join(str(error).split())
    if isinstance(error, RegistryError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
