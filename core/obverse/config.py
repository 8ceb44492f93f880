"""Configurations: a YAML file that names a codec's four parts, their arguments and their weights.

This module reads and checks text. It imports neither torch nor any component.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from obverse.errors import ConfigError, UnknownNameError, WeightsError
from obverse_registry import UnknownComponentError, registry

PARTS = ("encoder", "quantizer", "prior", "coder")
KEYS = ("name", *PARTS, "weights")


@dataclass(frozen=True)
class CodecConfig:
    """A resolved configuration.

    Attributes:
        name: name of the codec; part of the stream's identity.
        parts: for each of `PARTS`, its `name` and keyword arguments.
        weights: safetensors files; tensors are named `encoder.…`, `quantizer.…`, `prior.…`.
    """

    name: str
    parts: Mapping[str, Mapping[str, Any]]
    weights: tuple[Path, ...] = ()

    def to_yaml(self) -> str:
        """The configuration as a file that `load_config` reads back."""
        from omegaconf import OmegaConf

        body: dict[str, Any] = {"name": self.name, **{k: dict(v) for k, v in self.parts.items()}}
        body["weights"] = [str(path) for path in self.weights]
        return OmegaConf.to_yaml(OmegaConf.create(body))

    def tag(self) -> bytes:
        """2 bytes that stand for the name in a stream."""
        return hashlib.sha256(self.name.encode()).digest()[:2]

    def fingerprint(self) -> bytes:
        """3 bytes that stand for configuration and weights in a stream. The coder has a field of its own."""
        parts = {part: self.parts[part] for part in PARTS if part != "coder"}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())
        for path in self.weights:
            digest.update(bytes.fromhex(file_digest(path)))
        return digest.digest()[:3]


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        status = path.stat()
        return _file_digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"weights {str(path)!r} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_config(
    source: str | Path,
    *,
    parts: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    weights: Sequence[str | Path] = (),
) -> CodecConfig:
    """Read a configuration and apply what the caller changes.

    Args:
        source: name of an installed codec, or path of a YAML file (anything with a slash or ending in `.yaml`).
        parts: component names by part, as `{"prior": "uniform"}`. A part that is swapped loses its arguments.
        overrides: dotted `key=value` changes, as `prior.layers=4`; they win over everything else.
        weights: files that replace the configuration's own.

    Raises:
        UnknownNameError: no installed codec of that name.
        ConfigError: the file cannot be read, or has a key that does not exist.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = config_path(source)
    try:
        config = OmegaConf.load(path)
        if not OmegaConf.is_dict(config):
            raise ConfigError(f"{str(path)!r} is not a configuration: expected keys {list(KEYS)}")
        _check_keys(config, str(path))
        for part, name in (parts or {}).items():
            if config.get(part) is None or config[part].get("name") != name:
                config[part] = {"name": name}
        changes = OmegaConf.from_dotlist(list(_checked_overrides(overrides)))
        config = OmegaConf.merge(config, changes)
        body = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OSError as error:
        raise ConfigError(f"configuration {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {str(path)!r} is not text: {error.reason}") from error
    except (OmegaConfBaseException, _yaml_error()) as error:
        raise ConfigError(f"configuration {str(path)!r}: {_one_line(error)}") from error
    assert isinstance(body, dict)
    _check_keys(body, str(path))
    own = body.get("weights") or []
    base = Path() if changes.get("weights") else path.parent
    files = [Path(w) for w in weights] or [base / w for w in ([own] if isinstance(own, str) else own)]
    return CodecConfig(
        name=str(body["name"]),
        parts={part: _part(part, body[part], path) for part in PARTS},
        weights=tuple(Path(f).expanduser().resolve() for f in files),
    )


def config_path(source: str | Path) -> Path:
    """Path of the YAML file of an installed codec, or the path itself."""
    text = str(source)
    if isinstance(source, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return Path(source)
    try:
        return registry().get("codec", text).resource()
    except UnknownComponentError as error:
        raise UnknownNameError(str(error)) from None


def installed_codecs() -> list[CodecConfig]:
    """Every installed codec whose configuration can be read."""
    found = []
    for component in registry().components("codec"):
        try:
            found.append(load_config(component.name))
        except (ConfigError, UnknownNameError):
            continue
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'? ` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def unknown_keys(unknown: Sequence[str], valid: Sequence[str], where: str) -> ConfigError:
    """One error that lists every unknown key with its nearest valid one."""
    listed = "; ".join(f"{key!r} {nearest(key, valid)}".strip() for key in unknown)
    return ConfigError(
        f"{where}: unknown {'key' if len(unknown) == 1 else 'keys'} {listed} (valid: {', '.join(valid)})"
    )


def _check_keys(body: Mapping[str, Any], where: str) -> None:
    unknown = [str(key) for key in body if key not in KEYS]
    if unknown:
        raise unknown_keys(unknown, KEYS, where)
    missing = [key for key in KEYS[:-1] if body.get(key) is None]
    if missing:
        raise ConfigError(f"{where}: missing {missing}")


def _checked_overrides(overrides: Sequence[str]) -> Iterable[str]:
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {text!r} is not of the form key=value, as prior.layers=4")
        first = key.split(".")[0].split("[")[0]
        if first not in KEYS:
            raise unknown_keys([first], KEYS, f"override {text!r}")
        yield text


def _part(part: str, body: Any, path: Path) -> Mapping[str, Any]:
    section = {"name": body} if isinstance(body, str) else body
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise ConfigError(f"{path}: {part} needs a name, as {part}: {{name: …}}")
    return section


def _yaml_error() -> type[Exception]:
    from yaml import YAMLError

    return YAMLError


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
