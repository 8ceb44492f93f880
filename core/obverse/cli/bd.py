"""`obverse bd-rate`."""

from __future__ import annotations

import json as encoder
import sys
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.plot import MetricOption, RateOption, ResultsArgument, check_rate

if TYPE_CHECKING:
    from obverse.evaluation.curves import Curve


def bd_rate(
    results: ResultsArgument,
    metric: MetricOption = "psnr-rgb",
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="Codec that the others are compared with. (default: the first)")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="pchip, akima or cubic; may be repeated. (default: pchip)"),
    ] = None,
    rate: RateOption = "bpp",
    json: options.JsonOption = False,
) -> ExitCode:
    """Compare rate-distortion curves: mean difference of rate at equal quality, and of quality at equal rate."""
    from obverse.evaluation.bd import Method, problems
    from obverse.evaluation.curves import chosen_curves

    check_rate(rate)
    wrong = [method for method in methods or () if method not in get_args(Method)]
    if wrong:
        raise UsageError(f"no method {wrong[0]!r} (methods: {', '.join(get_args(Method))})")
    curves = chosen_curves(results, metric, rate)
    base = _anchor(curves, anchor)
    tests = [curve for curve in curves if curve is not base]
    if not tests:
        raise UsageError(f"only {base.codec} has {base.axis.metric}: name results of another codec as well")
    rows = [_compare(base, test, method) for test in tests for method in methods or ["pchip"]]
    for line in [line for curve in (base, *tests) for line in problems(curve)]:
        print(f"obverse: {line}; its deltas are doubtful", file=sys.stderr)
    for row in rows:
        for line in row["refused"]:
            print(f"obverse: {line}", file=sys.stderr)
    print(encoder.dumps(rows, indent=2) if json else _table(rows, base))
    failed = [row for row in rows if row["bd_rate_percent"] is None]
    return ExitCode.DONE if not failed else ExitCode.FAILURE if len(failed) == len(rows) else ExitCode.SOME_FAILED


def _anchor(curves: list[Curve], name: str | None) -> Curve:
    if name is None:
        return curves[0]
    for curve in curves:
        if curve.codec == name:
            return curve
    raise UsageError(f"no codec {name!r} among the results (codecs: {', '.join(curve.codec for curve in curves)})")


def _compare(anchor: Curve, test: Curve, method: Any) -> dict[str, Any]:
    from obverse.evaluation.bd import NotComparableError, bd_quality, bd_rate

    row: dict[str, Any] = {"anchor": anchor.codec, "test": test.codec, "metric": anchor.axis.metric, "method": method}
    row |= dict.fromkeys(("bd_rate_percent", "quality_overlap", "bd_quality", "rate_overlap"))
    refused = []
    try:
        delta = bd_rate(anchor, test, method)
        row |= {"bd_rate_percent": delta.value, "quality_overlap": delta.overlap}
    except NotComparableError as error:
        refused.append(f"no BD-rate: {error}")
    try:
        delta = bd_quality(anchor, test, method)
        row |= {"bd_quality": delta.value, "rate_overlap": delta.overlap}
    except NotComparableError as error:
        refused.append(f"no BD-quality: {error}")
    return row | {"refused": refused}


def _table(rows: list[dict[str, Any]], anchor: Curve) -> str:
    heads = ("TEST", "METHOD", "BD-RATE", "QUALITIES SHARED", "BD-QUALITY", "RATES SHARED")
    lines = [heads] + [
        (
            row["test"],
            row["method"],
            _cell(row["bd_rate_percent"], "+.3f", " %"),
            _cell(row["quality_overlap"], ".0%"),
            _cell(row["bd_quality"], "+.4f"),
            _cell(row["rate_overlap"], ".0%"),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([f"anchor: {anchor.codec}, metric: {anchor.axis.label}", *body])


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else format(value, form) + unit
