"""`obverse info`, `obverse list` and `obverse plugins`: nothing here loads weights, and nothing touches the network."""

from __future__ import annotations

import json as encoder
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.jobs import Job, attempt, summary_code
from obverse.cli.streams import read_input
from obverse.errors import ObverseError, WeightsError
from obverse_registry import KINDS, Component, registry

if TYPE_CHECKING:
    from obverse.cli.figures import FigureBook, Figures
    from obverse.container import Header


def info(
    paths: Annotated[list[str], typer.Argument(metavar="FILE...", help="Streams, or - for standard input.")],
    json: options.JsonOption = False,
) -> ExitCode:
    """Print what is in .obv files, without decoding them."""
    outcomes = [attempt(_Info(), Job(path, "")) for path in paths]
    reports = [outcome.result for outcome in outcomes if outcome.result is not None]
    failures = [outcome for outcome in outcomes if outcome.result is None]
    if json:
        print(encoder.dumps(reports, indent=2))
    else:
        print("\n\n".join(_lines(report) for report in reports), end="\n" if reports else "")
    for failure in failures:
        failure.complain()
    return summary_code(failures, len(outcomes))


def _lines(report: dict[str, Any]) -> str:
    shown = {key.replace("_", " "): value for key, value in report.items() if value is not None}
    return "\n".join(f"{key + ':':<16} {value}" for key, value in shown.items())


class _Info:
    """What is in one stream."""

    fatal = ()

    def __call__(self, job: Job) -> dict[str, Any]:
        from obverse import container
        from obverse.files import read_bytes

        data = read_input() if job.source == "-" else read_bytes(job.source, container.MAGIC)
        return _describe_stream(job.source, container.unpack(data))


def _describe_stream(path: str, stream: Any) -> dict[str, Any]:
    from obverse import container
    from obverse.identity import find_config, named_configs

    header = stream.header
    try:
        codec = find_config(header).name
        installed = "yes"
    except ObverseError as error:
        names = [config.name for config in named_configs(header)]
        wrote = header.chunks.get("name", b"?").decode(errors="replace")
        codec = names[0] if names else wrote if wrote.isprintable() else ascii(wrote)
        installed = f"no: {error}"
    pixels = header.width * header.height
    overhead = stream.size - len(stream.payload)
    return {
        "file": path,
        "version": container.VERSION,
        "codec": codec,
        "installed": installed,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "quality": header.quality + 1,
        "class": _class(header),
        "coder": _coder_name(header.coder),
        "numerics": container.NUMERICS.get(header.numerics, f"unknown ({header.numerics})"),
        "specification": header.specification,
        "bytes": stream.size,
        "payload_bytes": len(stream.payload),
        "header_bytes": overhead - sum(len(v) for v in header.chunks.values()),
        "bpp": round(8 * stream.size / pixels, 5),
        "bpp_payload": round(8 * len(stream.payload) / pixels, 5),
        "symbol_check": f"{stream.symbol_check:04x}",
        "metadata": {name: len(value) for name, value in header.chunks.items()},
    }


def _class(header: Header) -> int | str | None:
    try:
        return header.label()
    except ObverseError as error:
        return f"unreadable: {error}"


def _coder_name(code: int) -> str:
    from obverse.container import CODERS

    return CODERS.get(code, f"unknown ({code})")


def list_components(
    pattern: Annotated[str | None, typer.Argument(help="Names to show, as 'pocket-*'.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", "-k", help=f"One of {', '.join(KINDS)}.")] = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Codecs only, with sizes, licences and weights.")] = False,
    plugin: Annotated[str | None, typer.Option("--plugin", help="Only what this plugin provides.")] = None,
    json: options.JsonOption = False,
) -> ExitCode:
    """List components and codecs by name."""
    if kind is not None and kind not in KINDS:
        from obverse_registry.errors import did_you_mean

        raise UsageError(f"no kind {kind!r}{did_you_mean(kind, KINDS)} (kinds: {', '.join(KINDS)})")
    found = registry().components("codec" if codecs else kind, pattern)
    found = tuple(component for component in found if plugin in (None, component.plugin))
    rows = _codec_rows(found) if codecs else [_row(component, {}) for component in found]
    if json:
        print(encoder.dumps(rows, indent=2))
    else:
        _table([{key: _shown(key, value) for key, value in row.items() if key != "sources"} for row in rows])
    _warn_failures()
    return ExitCode.DONE


def _row(component: Component, facts: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {"kind": component.kind, "name": component.name, "plugin": component.plugin}
    return named | facts | {"summary": component.summary}


def _codec_rows(components: Sequence[Component]) -> list[dict[str, Any]]:
    from obverse.cli.figures import remembered_figures

    with remembered_figures() as book:
        return [
            _row(component, {**_facts(component, book), "licence": component.licence or "?", **component.details})
            for component in components
        ]


def _facts(component: Component, book: FigureBook) -> dict[str, Any]:
    """Sizes of a codec, and whether its weights are on this machine."""
    sizes = ("qualities", "tokens", "side", "codebook", "parameters")
    try:
        found = book.figures(component)
    except ObverseError as error:
        return {**dict.fromkeys(sizes), "weights": f"unreadable: {error}"}
    facts = {size: getattr(found, size) for size in sizes} | {"weights": _weights(found)}
    return facts | ({"sources": found.sources} if len(found.sources) > 1 else {})


def _weights(codec: Figures) -> str:
    """Whether weights are on this machine: their size, or which are, or where they are."""
    if not codec.parameters and not any(codec.weights):
        return "none needed"
    local = [_local(names, source) for names, source in zip(codec.weights, codec.sources, strict=True)]
    there = [str(number) for number, (_, absent) in enumerate(local, 1) if not absent]
    if len(there) == len(local):
        files = {file for found, _ in local for file in found}
        return f"yes, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
    if there:
        return f"qualities {', '.join(there)} of {len(local)}"
    names = list(dict.fromkeys(name for _, absent in local for name in absent))
    return f"no: {', '.join(names[:2])}{f' and {len(names) - 2} more' if names[2:] else ''}"


def _local(names: Sequence[str], source: str | None) -> tuple[list[Path], list[str]]:
    """Weights files that are on this machine, and the names of those that are not, or where to look for them."""
    from obverse.config import weights_source
    from obverse.shards import files_of

    found: list[Path] = []
    absent = [] if names else [source or "name them with --weights"]
    for name in names:
        try:
            place = weights_source(name, Path())
            files = files_of(place if isinstance(place, Path) else place.local())
            for file in files:
                file.stat()
            found += files
        except (WeightsError, OSError):
            absent.append(Path(name).name if name.startswith("/") else name)
    return found, absent


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.1f} M" if key == "parameters" else str(value)


def plugins(json: options.JsonOption = False) -> ExitCode:
    """List plugins: names, versions, what they provide, and which failed to load."""
    rows = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "kinds": ", ".join(plugin.kinds),
            "components": str(len(plugin.components)),
            "error": plugin.error or "",
        }
        for plugin in registry().plugins()
    ]
    if json:
        print(encoder.dumps(rows, indent=2))
    else:
        _table(rows)
    return ExitCode.DONE


def _warn_failures() -> None:
    for plugin in registry().failures():
        print(f"obverse: plugin {plugin.name!r} failed to load: {plugin.error}", file=sys.stderr)


def _table(rows: list[dict[str, str]]) -> None:
    """Columns on a terminal and in a pipe alike; the last one takes what is left of the line."""
    if not rows:
        print("nothing found", file=sys.stderr)
        return
    columns = [key for key in rows[0] if any(row.get(key) for row in rows)]
    widths = {key: max(len(key), *(len(row.get(key, "")) for row in rows)) for key in columns}
    for row in [{key: key.upper() for key in columns}, *rows]:
        print("  ".join(row.get(key, "").ljust(widths[key]) for key in columns).rstrip())
