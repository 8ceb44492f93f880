"""`obverse import`: what CompressAI compressed becomes a stream."""

from __future__ import annotations

import json as encoder
import sys
from pathlib import Path
from typing import Annotated

import typer

from obverse.cli import options
from obverse.cli.code import STREAM_SUFFIX
from obverse.cli.exit import ExitCode, UsageError


def import_strings(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Strings in CompressAI's order (y, then z), or a file of its example."),
    ],
    codec: options.CodecOption = None,
    config: options.ConfigOption = None,
    changes: options.SetOption = None,
    weights: options.WeightsOption = None,
    quality: options.QualityOption = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT that was coded, for strings.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .obv file.")] = None,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Rewrite what CompressAI compressed as an .obv file, symbol for symbol; its checkpoint must be at hand."""
    from obverse.cli.make import parse_size
    from obverse.codec import from_config
    from obverse.compressai_streams import read_example, transcode
    from obverse.files import check_output, read_bytes, write_beside

    if codec is None and config is None:
        raise UsageError("say which codec the strings are of: --codec NAME, and --weights with its checkpoint")
    target = Path(files[0]).with_suffix(STREAM_SUFFIX) if output is None else output
    check_output(target, force)
    strings = [read_bytes(file) for file in files]
    if size is None:
        if len(strings) != 1:
            raise UsageError("loose strings do not tell the picture's size: give --size WIDTHxHEIGHT")
        example = read_example(strings[0])
        quality = quality or example.quality
        width, height, strings = example.width, example.height, example.strings
        if (width, height) != example.picture:
            across, down = example.picture
            print(f"obverse: the picture of {across}x{down} has CompressAI's black border", file=sys.stderr)
    else:
        width, height = parse_size(size)
    chosen = options.chosen_config(codec, config, {}, changes or [], weights, quality)
    assert chosen is not None
    data = transcode(strings, width, height, from_config(chosen, numerics="native"), from_config(chosen))
    write_beside(target, data, force)
    report = {
        "input": [str(file) for file in files], "output": str(target), "codec": chosen.name, "width": width,
        "height": height, "bytes_before": sum(map(len, strings)), "bytes": len(data),
    }  # fmt: skip
    if json:
        print(encoder.dumps(report, indent=2))
    else:
        print(f"{files[0]} -> {target}: {report['bytes_before']} bytes, now {len(data)}")
    return ExitCode.DONE
