"""Codecs, anchors and metrics by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from obverse.config import nearest
from obverse.errors import ConfigError, PluginError, UnknownNameError
from obverse.evaluation.command import is_command_file, load_command
from obverse.evaluation.interfaces import AnyMetric, Metric, SetMetric, Subject, TokenMetric
from obverse_registry import RegistryError, registry

_FILE_NAME = re.compile(r"[\w.+-]+")
_TAKEN = ("run", "set_metrics", "reference")
"""Names of files and folders of results, which no codec can have."""


def subject(source: str, *, weights: Sequence[str] = (), device: str = "cpu", numerics: str | None = None) -> Subject:
    """A codec or an anchor.

    Args:
        source: name of an installed codec or anchor, or path of a codec's YAML file or of one that describes programs.
        weights, device, numerics: for codecs, as for `obverse.load`; anchors have none.

    Raises:
        UnknownNameError: neither a codec nor an anchor has this name.
        ConfigError, PluginError: its parts cannot be made.
    """
    from obverse.evaluation.learned import LearnedCodec

    anchors = {component.name: component for component in registry().components("anchor")}
    codecs = [component.name for component in registry().components("codec")]
    is_file = "/" in source or source.endswith((".yaml", ".yml"))
    made: Any
    if is_file and is_command_file(source):
        made = load_command(source)
    elif is_file or source in codecs:
        made = LearnedCodec(source=source, weights=weights, device=device, numerics=numerics)
    elif source in anchors:
        made = _made(anchors[source], {}, (Subject,))
    else:
        names = [*codecs, *anchors]
        raise UnknownNameError(
            f"no codec or anchor {source!r}; {nearest(source, names)}(obverse list --codecs and "
            "obverse list --kind anchor tell all)"
        )
    if not _FILE_NAME.fullmatch(made.name) or made.name in _TAKEN:
        raise ConfigError(f"codec {made.name!r} cannot be the name of a result file; rename it")
    return made  # type: ignore[no-any-return]


def metric(name: str, options: Mapping[str, Any] | None = None) -> AnyMetric:
    """A metric by name.

    Args:
        name: of a component of kind `metric`.
        options: keyword arguments of the metric.

    Raises:
        UnknownNameError: there is none of this name.
        ConfigError: it does not take these options.
        PluginError: it cannot be loaded, or lacks a package or weights.
    """
    metrics = {component.name: component for component in registry().components("metric")}
    if name not in metrics:
        raise UnknownNameError(f"no metric {name!r}; {nearest(name, metrics)}(metrics: {', '.join(metrics) or 'none'})")
    made: AnyMetric = _made(metrics[name], dict(options or {}), (Metric, SetMetric, TokenMetric))
    reason = made.missing()
    if reason is not None:
        raise PluginError(f"metric {name!r} cannot run here: {reason}")
    return made


def _made(component: Any, options: Mapping[str, Any], interfaces: tuple[type, ...]) -> Any:
    try:
        made = component.load()(**options)
    except RegistryError as error:
        raise PluginError(str(error)) from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise ConfigError(f"{component} cannot be made with {given}: {error}") from error
    if not isinstance(made, interfaces):
        expected = " or ".join(interface.__name__ for interface in interfaces)
        raise PluginError(f"{component} makes {type(made).__name__}, not a subclass of {expected}")
    return made
