"""Training configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from obverse.config import unknown_keys
from obverse.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "output": None,  # run folder
    "seed": 0,
    "precision": "no",  # accelerate's mixed precision: no, bf16 or fp16
    "task": {"name": None},
    "data": {"sources": [], "crop": 128, "batch": 16, "workers": 0, "cache": True},
    "optimizer": {"lr": 3e-4, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0, "clip": 1.0},
    "schedule": {"steps": 1000, "warmup": 200, "final": 0.02},
    "ema": 0.999,
    "every": {"log": 50, "checkpoint": 500, "preview": 500},
}


def load_training(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved training configuration of a YAML file, in the shape of `DEFAULTS`.

    Raises:
        ConfigError: the file cannot be read, or has a key that does not exist.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        read = OmegaConf.load(path)
        if not isinstance(read, DictConfig):
            raise ConfigError(f"{str(path)!r} is not a training configuration: expected keys {list(DEFAULTS)}")
        changes = OmegaConf.from_dotlist(list(overrides))
        given = OmegaConf.to_container(OmegaConf.merge(read, changes), resolve=True)
    except OSError as error:
        raise ConfigError(f"configuration {str(path)!r} cannot be read: {error.strerror}") from error
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"configuration {str(path)!r}: {' '.join(str(error).split())}") from error
    assert isinstance(given, dict)
    resolved = _merge(DEFAULTS, given, str(path))
    if not isinstance(resolved["task"].get("name"), str):
        raise ConfigError(f"{path}: task needs a name, as task: {{name: vq-tokenizer}}")
    return resolved


def _merge(defaults: Mapping[str, Any], given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Defaults with what was given; keys of `task` are its component's own."""
    unknown = [str(key) for key in given if key not in defaults]
    if unknown:
        raise unknown_keys(unknown, list(defaults), where)
    merged = dict(defaults)
    for key, value in given.items():
        if isinstance(defaults[key], Mapping) and not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} takes keys {list(defaults[key])}, not {value!r}")
        if key != "task" and isinstance(value, Mapping):
            value = _merge(defaults[key], value, f"{where}: {key}")
        merged[key] = value
    return merged
