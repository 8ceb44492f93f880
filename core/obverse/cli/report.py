"""`obverse report`."""

from __future__ import annotations

import json as encoder
import sys
from pathlib import Path
from typing import Annotated

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode


def report(
    directory: Annotated[Path, typer.Argument(help="Results folder of obverse eval.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    max_images: Annotated[int, typer.Option("--max-images", min=0, help="Images whose pictures it holds.")] = 8,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0, help="Size to keep, in 10^6 bytes.")] = 20,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Write a results folder as one HTML page: curves, tables and pictures to compare, without any other file."""
    from obverse.evaluation.report import make_report
    from obverse.files import check_output, write_beside

    check_output(output, force)
    made = make_report(directory, max_images=max_images, max_mb=max_mb)
    data = made.html.encode()
    write_beside(output, data, force)
    for line in made.left_out:
        print(f"obverse: {line}", file=sys.stderr)
    if json:
        told = {"output": str(output), "bytes": len(data), "images": made.images, "left_out": made.left_out}
        print(encoder.dumps(told, indent=2))
    else:
        print(output)
    return ExitCode.DONE
