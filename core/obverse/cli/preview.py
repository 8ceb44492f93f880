"""`obverse preview`: what the first blocks of a stream look like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.code import STREAM_SUFFIX, stream_codec
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.jobs import Job, named_output, plan, run_all
from obverse.cli.streams import binary_output, read_input
from obverse.config import CodecConfig
from obverse.errors import PluginError, UnknownNameError, WeightsError

NUMBER = "{}"
"""Where the name of an output has the number of blocks, in two digits."""


def preview(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT... [OUTPUT] [KEY=VALUE]...", help="Streams, folders, or - for standard input."),
    ] = None,
    blocks: Annotated[
        list[int] | None,
        typer.Option("--blocks", "-k", min=1, help="Decode so many blocks only; may be repeated. (default: 1 to all)"),
    ] = None,
    output: options.OutputOption = None,
    directory: options.DirectoryOption = None,
    suffix: Annotated[str, typer.Option("--format", help="Format of outputs that are not named.")] = "png",
    force: options.ForceOption = False,
    codec: options.CodecOption = None,
    config: options.ConfigOption = None,
    encoder: options.EncoderOption = None,
    quantizer: options.QuantizerOption = None,
    prior: options.PriorOption = None,
    changes: options.SetOption = None,
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "cpu",
    json: options.JsonOption = False,
) -> ExitCode:
    """Write what the first blocks of .obv files give, for codecs whose blocks refine each other."""
    from obverse.images import IMAGE_SUFFIXES

    paths, overrides = options.split_overrides(words or [])
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior}
    chosen = options.chosen_config(codec, config, parts, [*overrides, *(changes or [])], weights)
    paths, output = named_output(paths, output, frozenset({STREAM_SUFFIX}), IMAGE_SUFFIXES)
    suffix = options.picture_suffix(suffix)
    if output is not None:
        options.picture_path(output)
    planned = plan(paths, frozenset({STREAM_SUFFIX}), f".preview-{NUMBER}{suffix}", output, directory, force)
    counts = tuple(sorted(set(blocks or ())))
    for job in planned:
        if len(counts) != 1 and NUMBER not in Path(job.target).name:
            raise UsageError(
                f"{job.target!r} is one output for several pictures: name it as 'scales-{NUMBER}.png', or use --blocks"
            )
    return run_all(Preview(chosen, device, suffix, counts), planned, 1, False, _describe, json)


@dataclass(frozen=True)
class Preview:
    """Work on one stream.

    Attributes:
        counts: how many blocks make each picture; none for all there are.
    """

    config: CodecConfig | None
    device: str
    suffix: str
    counts: tuple[int, ...]

    @property
    def fatal(self) -> tuple[type[Exception], ...]:
        return (PluginError, UnknownNameError, WeightsError) if self.config else ()

    def __call__(self, job: Job) -> dict[str, Any]:
        import numpy as np

        from obverse import container
        from obverse.files import read_bytes
        from obverse.identity import find_config
        from obverse.images import write_image

        data = read_input() if job.source == "-" else read_bytes(job.source, container.MAGIC)
        header = container.unpack(data).header
        config = self.config or find_config(header, fetch=True)
        codec = stream_codec(header, config, self.device)
        total = codec.preview_count(data)
        counts = self.counts or range(1, total + 1)
        jobs = [replace(job, target=_numbered(job.target, count)) for count in counts]
        for one in jobs:
            one.check_target()
        for one, picture in zip(jobs, codec.previews(data, counts), strict=True):
            one.prepare_target()
            write_image(
                binary_output() if one.target == "-" else Path(one.target), np.asarray(picture),
                icc=header.chunks.get("icc"), exif=header.chunks.get("exif"),
                format=self.suffix[1:] if one.target == "-" else None, force=one.force,
            )  # fmt: skip
        return {
            "input": job.source, "outputs": [one.target for one in jobs], "blocks": list(counts), "of": total,
            "width": header.width, "height": header.height, "codec": config.name,
        }  # fmt: skip


def _numbered(target: str, count: int) -> str:
    path = Path(target)
    return target if target == "-" else str(path.with_name(path.name.replace(NUMBER, f"{count:02d}")))


def _describe(result: dict[str, Any]) -> str:
    shown = zip(result["outputs"], result["blocks"], strict=True)
    return "\n".join(f"{result['input']} -> {output}: {count} of {result['of']} blocks" for output, count in shown)
