"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from obverse.cli.exit import UsageError
from obverse.config import CodecConfig, load_config
from obverse.numerics import MODES

DEFAULT_CODEC = "pocket-vq"

CodecOption = Annotated[
    str | None,
    typer.Option("--codec", "-m", "--model", help=f"Codec by name (obverse list --codecs). (default: {DEFAULT_CODEC})"),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Codec from a YAML file instead of a name.")]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Swap the encoder, by name.")]
QuantizerOption = Annotated[str | None, typer.Option("--quantizer", help="Swap the quantizer, by name.")]
PriorOption = Annotated[str | None, typer.Option("--prior", help="Swap the prior, by name.")]
CoderOption = Annotated[
    str | None,
    typer.Option("--coder", "-c", "--entropy-coder", help="Swap the entropy coder: range, raw or ideal."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Change the configuration: KEY=VALUE, as prior.layers=4."),
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        "-w",
        help="Weights instead of the configuration's own: a file, a folder of official files, or hf://OWNER/REPO/FILE.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:0.")]
NumericsOption = Annotated[
    str | None,
    typer.Option("--numerics", help=f"{', '.join(MODES[:-1])} or {MODES[-1]}. (default: the first that the prior has)"),
]
QualityOption = Annotated[
    int | None,
    typer.Option("--quality", "-q", help="Operating point, 1 is the smallest file. (default: the middle one)"),
]
ClassOption = Annotated[
    int | None, typer.Option("--class", min=0, help="Class of the picture, for priors with classes.")
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Skip inputs whose output exists.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", "--num-jobs", min=1, help="Processes for many files.")]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", help="Output file; - is standard output.")]
DirectoryOption = Annotated[
    Path | None,
    typer.Option("--output-directory", "-d", "--output_directory", help="Folder for the outputs."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved configuration and do nothing.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")]

_OVERRIDE = re.compile(r"[A-Za-z_][\w.\[\]]*=")


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate `key=value` words from paths; a word that is the name of a file is a path."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not os.path.exists(word)]
    return [word for word in words if word not in overrides], overrides


def chosen_config(
    codec: str | None,
    config: Path | None,
    parts: dict[str, str | None],
    overrides: Sequence[str],
    weights: Sequence[str] | None,
    quality: int | None = None,
) -> CodecConfig | None:
    """The configuration that the options describe, or None when they say nothing; a quality alone says nothing."""
    swapped = {part: name for part, name in parts.items() if name is not None}
    if codec is not None and config is not None:
        raise UsageError("--codec and --config exclude each other")
    if codec is None and config is None and not swapped and not overrides and not weights:
        return None
    source = config or codec or DEFAULT_CODEC
    return load_config(source, quality=quality, parts=swapped, overrides=overrides, weights=weights or ())


def default_config(quality: int | None = None) -> CodecConfig:
    """The codec when no option names one."""
    return load_config(DEFAULT_CODEC, quality=quality)


def picture_suffix(text: str) -> str:
    """The suffix of pictures to write, checked before any work is spent: `.png`, also for `png` and for none."""
    from obverse.images import WRITTEN_SUFFIXES
    from obverse_registry.errors import did_you_mean

    suffix = f".{text.lower().removeprefix('.') or 'png'}"
    if suffix not in WRITTEN_SUFFIXES:
        hint = did_you_mean(suffix, WRITTEN_SUFFIXES)
        raise UsageError(f"pictures cannot be written as {suffix!r}{hint} (formats: {', '.join(WRITTEN_SUFFIXES)})")
    return suffix


def picture_path(path: str) -> str:
    """A picture to write, or - for standard output, its suffix checked."""
    if not path:
        raise UsageError("an empty word is no file name")
    if path != "-" and not os.path.isdir(path):
        picture_suffix(os.path.splitext(path)[1])
    return path
