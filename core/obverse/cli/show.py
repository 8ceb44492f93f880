"""`obverse info`, `obverse list` and `obverse plugins`: nothing here loads a network."""

from __future__ import annotations

import json as encoder
import sys
from typing import Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.jobs import Job, attempt, summary_code
from obverse.cli.streams import read_input
from obverse.errors import ObverseError
from obverse_registry import KINDS, Component, registry


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
    return "\n".join(f"{key.replace('_', ' ') + ':':<16} {value}" for key, value in report.items())


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


def _coder_name(code: int) -> str:
    from obverse.container import CODERS

    return CODERS.get(code, f"unknown ({code})")


def list_components(
    pattern: Annotated[str | None, typer.Argument(help="Names to show, as 'pocket-*'.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", "-k", help=f"One of {', '.join(KINDS)}.")] = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Codecs only, with their weights.")] = False,
    plugin: Annotated[str | None, typer.Option("--plugin", help="Only what this plugin provides.")] = None,
    json: options.JsonOption = False,
) -> ExitCode:
    """List components and codecs by name."""
    if kind is not None and kind not in KINDS:
        from obverse_registry.errors import did_you_mean

        raise UsageError(f"no kind {kind!r}{did_you_mean(kind, KINDS)} (kinds: {', '.join(KINDS)})")
    found = registry().components("codec" if codecs else kind, pattern)
    rows = [_row(component, codecs) for component in found if plugin in (None, component.plugin)]
    if json:
        print(encoder.dumps(rows, indent=2))
    else:
        _table(rows)
    _warn_failures()
    return ExitCode.DONE


def _row(component: Component, codecs: bool) -> dict[str, str]:
    row = {
        "kind": component.kind,
        "name": component.name,
        "plugin": component.plugin,
        "summary": component.summary,
    }
    if codecs:
        row |= {"weights": _weights(component), "licence": component.licence or "?", **component.details}
    return row


def _weights(component: Component) -> str:
    """Whether the weights of a codec are on this machine, and their size."""
    from obverse.config import load_config

    try:
        files = load_config(component.name).weights
    except ObverseError as error:
        return f"unreadable: {error}"
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        return f"missing: {', '.join(missing)}"
    return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB" if files else "none needed"


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
