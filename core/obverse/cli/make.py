"""`obverse generate` and `obverse reconstruct`: pictures to look at."""

from __future__ import annotations

import json as encoder_
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.code import load_codec
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.streams import binary_output, read_input
from obverse.numerics import check_mode

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


def generate(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Number of pictures.")] = 1,
    seed: options.SeedOption = 0,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels. (default: 256x256, with --from the picture's)")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option("--from", metavar="IMAGE", help="Take the arrays of --keep from this picture, and draw the rest."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Array to take, as z; may be repeated. Or how many of the first arrays."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="1 draws from the prior itself.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Keep the k most probable symbols; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Keep the most probable share.")] = 1.0,
    quality: options.QualityOption = None,
    label: options.ClassOption = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0.0, help="Strength of guidance towards the class.")
    ] = None,
    codec: options.CodecOption = None,
    output: options.OutputOption = None,
    directory: options.DirectoryOption = None,
    force: options.ForceOption = False,
    config: options.ConfigOption = None,
    encoder: options.EncoderOption = None,
    quantizer: options.QuantizerOption = None,
    prior: options.PriorOption = None,
    changes: options.SetOption = None,
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "cpu",
    numerics: options.NumericsOption = None,
    print_config: options.PrintConfigOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Draw pictures from a codec's prior, or what it leaves open of a picture: one sheet (-o), or a file each (-d)."""
    paths, changed = options.split_overrides(words or [])
    if paths:
        raise UsageError(f"unexpected word {paths[0]!r}: generate takes no input; name the output with -o")
    sides = None if size is None else parse_size(size)
    if (known is None) != (not keep):
        raise UsageError("--from and --keep go together: arrays are kept of a picture")
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior}
    chosen = options.chosen_config(codec, config, parts, [*changed, *(changes or [])], weights, quality)
    chosen = chosen or options.default_config(quality)
    if print_config:
        print(chosen.to_yaml(), end="")
        return ExitCode.DONE
    check_mode(numerics)
    if output is not None and directory is not None:
        raise UsageError("--output and --output-directory exclude each other")
    from obverse.files import check_output, make_folder
    from obverse.sheets import grid

    targets = [options.picture_path("generated.png" if output is None else output)]
    if directory is not None:
        targets = [str(directory / f"{chosen.name}-{seed}-{i}.png") for i in range(number)]
    for target in targets:
        if target != "-":
            check_output(target, force, directory is not None)
    pixels = None if known is None else _read(known)
    pictures = load_codec(chosen, device, numerics).generate(
        number,
        seed=seed,
        size=sides,
        quality=quality,
        label=label,
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        known=pixels,
        keep=_kept(keep),
    )
    if directory is not None:
        make_folder(directory)
    shown = pictures if directory is not None else [grid(pictures)]
    out = sys.stderr if "-" in targets else sys.stdout
    results = []
    width, height = pictures[0].size
    for target, picture in zip(targets, shown, strict=True):
        _write(target, picture, force)
        results.append({"output": target, "codec": chosen.name, "seed": seed, "width": width, "height": height})
        if not json:
            print(target, file=out)
    if json:
        print(encoder_.dumps(results, indent=2), file=out)
    return ExitCode.DONE


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from WIDTHxHEIGHT, or from one number for both."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if not match:
        raise UsageError(f"--size {text!r} is not WIDTHxHEIGHT, as 256x256")
    return int(match[1]), int(match[2] or match[1])


def _kept(words: list[str] | None) -> int | list[str] | None:
    """What --keep says: names of arrays, or one number."""
    if words and len(words) == 1 and words[0].isdecimal():
        return int(words[0])
    return words or None


def _read(source: str) -> np.ndarray:
    """The pixels of an image file, or of standard input; what was changed is announced."""
    from obverse.images import read_image

    loaded = read_image(read_input() if source == "-" else Path(source))
    for note in loaded.notes:
        print(f"obverse: {source}: {note}", file=sys.stderr)
    return loaded.pixels


def _write(target: str, picture: Image.Image, force: bool) -> None:
    import numpy as np

    from obverse.images import write_image

    write_image(binary_output() if target == "-" else target, np.asarray(picture), force=force)


def reconstruct(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE [OUTPUT.png] [KEY=VALUE]...", help="One image, or - for standard input."),
    ] = None,
    quality: options.QualityOption = None,
    label: options.ClassOption = None,
    codec: options.CodecOption = None,
    output: options.OutputOption = None,
    force: options.ForceOption = False,
    config: options.ConfigOption = None,
    encoder: options.EncoderOption = None,
    quantizer: options.QuantizerOption = None,
    prior: options.PriorOption = None,
    coder: options.CoderOption = None,
    changes: options.SetOption = None,
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "cpu",
    numerics: options.NumericsOption = None,
    print_config: options.PrintConfigOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Compress and decompress an image, and show both side by side with bpp and PSNR."""
    paths, changed = options.split_overrides(words or [])
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior, "coder": coder}
    chosen = options.chosen_config(codec, config, parts, [*changed, *(changes or [])], weights, quality)
    chosen = chosen or options.default_config(quality)
    if print_config:
        print(chosen.to_yaml(), end="")
        return ExitCode.DONE
    check_mode(numerics)
    source, target = _source_and_target(paths, output)
    from obverse.files import check_output
    from obverse.sheets import side_by_side

    if target != "-":
        check_output(target, force)
    pixels = _read(source)
    result = load_codec(chosen, device, numerics).reconstruct(pixels, quality=quality, label=label)
    caption = f"{chosen.name}: {len(result.data)} bytes, {result.bpp:.4f} bpp, {result.psnr:.2f} dB"
    _write(target, side_by_side(pixels, result.image, caption), force)
    out = sys.stderr if target == "-" else sys.stdout
    if json:
        report: dict[str, Any] = {"input": source, "output": target, "codec": chosen.name, "bytes": len(result.data)}
        psnr = None if result.psnr == float("inf") else result.psnr
        print(encoder_.dumps(report | {"bpp": result.bpp, "psnr-rgb": psnr}, indent=2), file=out)
    else:
        print(f"{target}: {caption}", file=out)
    return ExitCode.DONE


def _source_and_target(paths: list[str], output: str | None) -> tuple[str, str]:
    if len(paths) not in (1, 2) or (output is not None and len(paths) == 2):
        raise UsageError(f"reconstruct takes one image and at most one output, got {len(paths)} paths")
    source = paths[0]
    if not source:
        raise UsageError("an empty word is no file name")
    beside = str(Path("stdin" if source == "-" else source).with_suffix(".reconstruct.png"))
    named = output if output is not None else paths[1] if len(paths) == 2 else None
    target = options.picture_path(named if named is not None else "-" if source == "-" else beside)
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(beside))
    if target != "-" and os.path.realpath(target) == os.path.realpath(source):
        raise UsageError(f"the output would overwrite the input {source!r}")
    return source, target
