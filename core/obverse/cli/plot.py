"""`obverse plot` and `obverse analyse`: figures and tables of results that were measured before."""

from __future__ import annotations

import json as encoder
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError

ResultsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="RESULTS...", help="Folders of obverse eval, or result files, also CompressAI's."),
]
MetricOption = Annotated[str, typer.Option("--metric", help="Metric, as psnr-rgb or lpips-alex.")]
RateOption = Annotated[
    str, typer.Option("--rate", help="What is counted: bpp (whole files), bpp_payload or bpp_estimated.")
]
PaperOption = Annotated[bool, typer.Option("--paper", help="Set published numbers beside the measured ones.")]


class Axis(StrEnum):
    """Scales of the rate."""

    log = "log"
    linear = "linear"


def plot(
    results: ResultsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Figure to write: .png, .svg or .pdf.")] = Path(
        "rd.png"
    ),
    metric: MetricOption = "psnr-rgb",
    rate: RateOption = "bpp",
    codecs: Annotated[
        list[str] | None, typer.Option("--codec", "-m", "--model", help="Only this codec; may be repeated.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Title of the figure.")] = "",
    axis: Annotated[
        Axis | None, typer.Option("--axis", help="Of the rate. (default: log where a rate is below 0.1 bpp)")
    ] = None,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Draw rate-distortion curves."""
    from obverse.evaluation.curves import chosen_curves
    from obverse.evaluation.figures import SUFFIXES, rd_figure, render
    from obverse.files import check_output, write_beside

    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"figures cannot be written as {output.name!r} (formats: {', '.join(SUFFIXES)})")
    check_rate(rate)
    check_output(output, force)
    curves = chosen_curves(results, metric, rate, codecs or ())
    logarithmic = None if axis is None else axis is Axis.log
    write_beside(output, render(rd_figure(curves, rate, title, logarithmic), suffix), force)
    if json:
        drawn = {curve.codec: [vars(point) for point in curve.points] for curve in curves}
        print(encoder.dumps({"output": str(output), "metric": curves[0].axis.metric, "curves": drawn}, indent=2))
    else:
        print(output)
    return ExitCode.DONE


def analyse(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of obverse eval.")],
    directory: Annotated[
        Path, typer.Option("--output-directory", "-d", "-o", "--output_directory", help="Folder for the outputs.")
    ] = Path("analyses"),
    bpp: Annotated[
        float | None, typer.Option("--bpp", min=0, help="Strips show each codec's picture nearest to this rate.")
    ] = None,
    paper: PaperOption = False,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Write curves, compression ratios, strips of pictures, and tables of times and models."""
    from obverse.evaluation.analysis_files import write_analyses

    written = [str(path) for path in write_analyses(results, directory, with_paper=paper, bpp=bpp, force=force)]
    print(encoder.dumps({"outputs": written}, indent=2) if json else "\n".join(written))
    return ExitCode.DONE


def check_rate(rate: str) -> None:
    """Refuse rates that result files do not have."""
    from obverse.evaluation.axes import RATES

    if rate not in RATES:
        raise UsageError(f"no rate {rate!r} (rates: {', '.join(RATES)})")
