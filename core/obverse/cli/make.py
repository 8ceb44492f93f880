"""`obverse generate` and `obverse reconstruct`: pictures to look at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from obverse.cli import options
from obverse.cli.code import load_codec
from obverse.cli.exit import ExitCode


def generate(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Number of pictures.")] = 1,
    seed: options.SeedOption = 0,
    size: Annotated[str, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = "256x256",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="1 draws from the prior itself.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Keep the k most probable symbols; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Keep the most probable share.")] = 1.0,
    quality: options.QualityOption = None,
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
    print_config: options.PrintConfigOption = False,
) -> ExitCode:
    """Draw pictures from a codec's prior: one sheet (-o), or a file each (-d)."""
    words, changed = options.split_overrides(overrides or [])
    if words:
        raise typer.BadParameter(f"unexpected argument {words[0]!r}; generate takes no input")
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", size)
    if not match:
        raise typer.BadParameter(f"--size {size!r} is not WIDTHxHEIGHT, as 256x256")
    width, height = int(match[1]), int(match[2] or match[1])
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior}
    chosen = options.chosen_config(codec or (None if config else options.DEFAULT_CODEC), config, parts,
                                   [*changed, *(changes or [])], weights)  # fmt: skip
    assert chosen is not None
    if print_config:
        print(chosen.to_yaml(), end="")
        return ExitCode.DONE
    import numpy as np

    from obverse.cli.sheets import grid
    from obverse.files import make_folder, refuse_existing
    from obverse.images import write_image

    targets = [Path(output or "generated.png")]
    if directory is not None:
        targets = [directory / f"{chosen.name}-{seed}-{i}.png" for i in range(number)]
    for target in targets:
        refuse_existing(target, force)
    pictures = load_codec(chosen, device).generate(
        number,
        seed=seed,
        size=(width, height),
        quality=quality,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    shown = pictures if directory is not None else [grid(pictures)]
    for target, picture in zip(targets, shown, strict=True):
        make_folder(target.parent)
        write_image(target, np.asarray(picture), force=force)
        print(target)
    return ExitCode.DONE


def reconstruct(
    words: Annotated[list[str], typer.Argument(metavar="IMAGE [OUTPUT.png]", help="One image.")],
    quality: options.QualityOption = None,
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
    json: options.JsonOption = False,
) -> ExitCode:
    """Compress and decompress an image, and show both side by side with bpp and PSNR."""
    paths, changed = options.split_overrides(words)
    if len(paths) not in (1, 2):
        raise typer.BadParameter(f"reconstruct takes one image and one output, got {len(paths)} paths")
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior, "coder": coder}
    chosen = options.chosen_config(codec or (None if config else options.DEFAULT_CODEC), config, parts,
                                   [*changed, *(changes or [])], weights)  # fmt: skip
    assert chosen is not None
    import numpy as np

    from obverse.cli.sheets import side_by_side
    from obverse.files import refuse_existing
    from obverse.images import read_image, write_image

    source = Path(paths[0])
    target = Path(output or (paths[1] if len(paths) == 2 else source.with_suffix(".reconstruct.png")))
    refuse_existing(target, force)
    loaded = read_image(source)
    result = load_codec(chosen, device).reconstruct(loaded.pixels, quality=quality)
    caption = f"{chosen.name}: {len(result.data)} bytes, {result.bpp:.4f} bpp, {result.psnr:.2f} dB"
    write_image(target, np.asarray(side_by_side(loaded.pixels, result.image, caption)), force=force)
    if json:
        import json as encoder_

        psnr = None if result.psnr == float("inf") else result.psnr
        report = {
            "input": str(source),
            "output": str(target),
            "codec": chosen.name,
            "bytes": len(result.data),
        }
        print(encoder_.dumps(report | {"bpp": result.bpp, "psnr-rgb": psnr}, indent=2))
    else:
        print(f"{target}: {caption}")
    return ExitCode.DONE
