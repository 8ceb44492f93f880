"""`obverse compress` and `obverse decompress`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.jobs import Job, named_output, plan, run_all
from obverse.cli.manifest import Manifest
from obverse.cli.streams import binary_output, read_input, write_output
from obverse.config import CodecConfig
from obverse.errors import ConfigError, PluginError, UnknownNameError, WeightsError
from obverse.group import own_device
from obverse.numerics import NATIVE, check_mode

if TYPE_CHECKING:
    from obverse.codec import Codec
    from obverse.container import Header

STREAM_SUFFIX = ".obv"
_CODEC_ERRORS = (ConfigError, PluginError, UnknownNameError, WeightsError)


def compress(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT... [OUTPUT.obv] [KEY=VALUE]...", help="Images, folders, or - for standard input."
        ),
    ] = None,
    codec: options.CodecOption = None,
    quality: options.QualityOption = None,
    label: options.ClassOption = None,
    output: options.OutputOption = None,
    directory: options.DirectoryOption = None,
    force: options.ForceOption = False,
    resume: options.ResumeOption = False,
    jobs: options.JobsOption = 1,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Also write what became of each input, as JSON lines.")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Keep ICC profile and EXIF, and the codec's name.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--entropy-estimation", help="Print the ideal size and write nothing.")
    ] = False,
    numerics: options.NumericsOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode every stream before it is written; native ones always are.")
    ] = False,
    rd_lambda: Annotated[
        float | None,
        typer.Option(
            "--rd-lambda", min=0, help="Cheaper tokens: bits that a unit of squared latent distance is worth."
        ),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(
            "--target-bpp", help="The highest quality, or else cheaper tokens, of at most so many bits per pixel."
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes", min=1, help="The highest quality, or else cheaper tokens, of at most so many bytes."
        ),
    ] = None,
    config: options.ConfigOption = None,
    encoder: options.EncoderOption = None,
    quantizer: options.QuantizerOption = None,
    prior: options.PriorOption = None,
    coder: options.CoderOption = None,
    changes: options.SetOption = None,
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "cpu",
    print_config: options.PrintConfigOption = False,
    json: options.JsonOption = False,
) -> ExitCode:
    """Write images as .obv files.

    For several processes, also on several machines: accelerate launch -m obverse compress FOLDER -d FOLDER --resume
    """
    from obverse.images import IMAGE_SUFFIXES

    paths, overrides = options.split_overrides(words or [])
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior, "coder": coder}
    chosen = options.chosen_config(codec, config, parts, [*overrides, *(changes or [])], weights, quality)
    chosen = chosen or options.default_config(quality)
    if print_config:
        print(chosen.to_yaml(), end="")
        return ExitCode.DONE
    check_mode(numerics)
    paths, output = named_output(paths, output, IMAGE_SUFFIXES, frozenset({STREAM_SUFFIX}))
    planned = plan(paths, IMAGE_SUFFIXES, STREAM_SUFFIX, output, directory, force)
    estimate = estimate or chosen.parts["coder"]["name"] == "ideal"
    targets = {"--rd-lambda": rd_lambda, "--target-bpp": target_bpp, "--max-bytes": max_bytes}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
    if given and estimate:
        raise UsageError(f"{given[0]} chooses what is written: it does nothing where only the size is estimated")
    if target_bpp is not None and not 0 < target_bpp < math.inf:
        raise UsageError(f"--target-bpp {target_bpp} is not a number above 0")
    folders = all(Path(file).is_dir() for file in weights or ())
    if not folders and chosen.qualities and quality is None and (target_bpp or max_bytes):
        raise UsageError(f"--weights are of one quality of codec {chosen.name!r}: name it with --quality")
    if manifest is not None and estimate:
        raise UsageError("--manifest tells of files that are written: none are where only the size is estimated")
    work = Compress(
        chosen, own_device(device), quality, label, metadata, estimate, numerics, verify, rd_lambda, target_bpp,
        max_bytes,
    )  # fmt: skip
    report = None if manifest is None else Manifest(manifest, chosen.name, force)
    return run_all(work, planned, jobs, resume, _describe_compressed, json, report)


def decompress(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT... [OUTPUT] [KEY=VALUE]...", help="Streams, folders, or - for standard input."),
    ] = None,
    output: options.OutputOption = None,
    directory: options.DirectoryOption = None,
    suffix: Annotated[str, typer.Option("--format", help="Format of outputs that are not named.")] = "png",
    force: options.ForceOption = False,
    resume: options.ResumeOption = False,
    jobs: options.JobsOption = 1,
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
    """Write .obv files as images. The codec is found from the stream, unless options name another."""
    from obverse.images import IMAGE_SUFFIXES

    paths, overrides = options.split_overrides(words or [])
    parts = {"encoder": encoder, "quantizer": quantizer, "prior": prior}
    chosen = options.chosen_config(codec, config, parts, [*overrides, *(changes or [])], weights)
    paths, output = named_output(paths, output, frozenset({STREAM_SUFFIX}), IMAGE_SUFFIXES)
    suffix = options.picture_suffix(suffix)
    if output is not None:
        options.picture_path(output)
    _origins.clear()
    planned = plan(paths, frozenset({STREAM_SUFFIX}), suffix, output, directory, force)
    return run_all(Decompress(chosen, own_device(device), suffix), planned, jobs, resume, _describe_decompressed, json)


@dataclass(frozen=True)
class Compress:
    """Work on one image; picklable."""

    config: CodecConfig
    device: str
    quality: int | None
    label: int | None
    metadata: bool
    estimate: bool
    numerics: str | None
    verify: bool
    rd_lambda: float | None
    target_bpp: float | None
    max_bytes: int | None

    @property
    def fatal(self) -> tuple[type[Exception], ...]:
        return _CODEC_ERRORS

    def __call__(self, job: Job) -> dict[str, Any]:
        from obverse.container import CODERS, unpack
        from obverse.families import within
        from obverse.files import write_beside
        from obverse.images import read_image

        if not self.estimate:
            job.check_target()
        source = read_input() if job.source == "-" else Path(job.source)
        loaded = read_image(source, convert_colours=not self.metadata)
        for note in loaded.notes:
            print(f"obverse: {job.source}: {note}", file=sys.stderr)
        height, width = loaded.pixels.shape[:2]
        result: dict[str, Any] = {
            "input": job.source,
            "width": width,
            "height": height,
            "codec": self.config.name,
        }
        limit = self.max_bytes
        if self.target_bpp is not None:
            limit = max(1, int(self.target_bpp * width * height / 8))
        chunks = {}
        if self.metadata:
            kept = {"name": self.config.name.encode(), "icc": loaded.icc, "exif": loaded.exif}
            chunks = {name: value for name, value in kept.items() if value}
        options: dict[str, Any] = {"label": self.label, "chunks": chunks, "verify": self.verify}
        if limit is not None and self.quality is None:
            start = time.perf_counter()
            data = within(self.config, self._load, loaded.pixels, limit, **options)
        else:
            codec = self._load(self.config)
            start = time.perf_counter()
            if self.estimate:
                rate = codec.rate(loaded.pixels, label=self.label)
                estimated = {"output": None, "bits_estimated": rate.bits, "bpp_estimated": rate.bpp}
                return result | {"numerics": codec.numerics, **estimated}
            data = codec.compress(loaded.pixels, rd_lambda=self.rd_lambda, max_bytes=limit, **options)
        seconds = time.perf_counter() - start
        header = unpack(data).header
        if job.target == "-":
            write_output(data)
        else:
            job.prepare_target()
            write_beside(Path(job.target), data, force=job.force)
        return result | {
            "numerics": header.mode(), "output": job.target, "bytes": len(data),
            "bpp": 8 * len(data) / (width * height), "quality": header.quality + 1, "coder": CODERS[header.coder],
            "verified": self.verify or header.mode() == NATIVE, "seconds": round(seconds, 3),
        }  # fmt: skip

    def _load(self, config: CodecConfig) -> Codec:
        return load_codec(config, self.device, self.numerics)


@dataclass(frozen=True)
class Decompress:
    """Work on one stream; picklable."""

    config: CodecConfig | None
    device: str
    suffix: str

    @property
    def fatal(self) -> tuple[type[Exception], ...]:
        return _CODEC_ERRORS if self.config else ()

    def __call__(self, job: Job) -> dict[str, Any]:
        import numpy as np

        from obverse import container
        from obverse.files import read_bytes
        from obverse.images import write_image

        job.check_target()
        data = read_input() if job.source == "-" else read_bytes(job.source, container.MAGIC)
        stream = container.unpack(data)
        config = self.config or _origin(stream.header)
        codec = stream_codec(stream.header, config, self.device)
        start = time.perf_counter()
        pixels = np.asarray(codec.decode_stream(stream))
        seconds = time.perf_counter() - start
        chunks = stream.header.chunks
        job.prepare_target()
        target = binary_output() if job.target == "-" else Path(job.target)
        write_image(
            target, pixels, icc=chunks.get("icc"), exif=chunks.get("exif"),
            format=self.suffix[1:] if job.target == "-" else None, force=job.force,
        )  # fmt: skip
        return {
            "input": job.source, "output": job.target, "width": stream.header.width, "height": stream.header.height,
            "codec": config.name, "bytes": stream.size, "seconds": round(seconds, 3),
        }  # fmt: skip


_origins: dict[tuple[bytes, bytes], CodecConfig] = {}


def _origin(header: Header) -> CodecConfig:
    """The installed codec that wrote a stream, remembered for the next file."""
    from obverse.identity import find_config

    key = header.tag, header.fingerprint
    if key not in _origins:
        _origins[key] = find_config(header, fetch=True)
    return _origins[key]


_noted: set[str] = set()
"""Weights without a revision that were announced."""

_SIBLINGS = 4
"""Networks of one family that are kept, of those that a search for a size goes through."""

_loaded: dict[tuple[str, str, str | None], Codec] = {}
"""The codecs in memory, the one that was used last at the end."""


def load_codec(config: CodecConfig, device: str, numerics: str | None = None) -> Codec:
    """The codec of a configuration, kept for the next file."""
    from obverse.codec import from_config

    for name in config.unpinned():
        if name not in _noted:
            _noted.add(name)
            print(f"obverse: {name} names no revision and may change; pin it as {name}@COMMIT", file=sys.stderr)
    return _kept(config, (config.to_yaml(), device, numerics), lambda: from_config(config, device, numerics))


def stream_codec(header: Header, config: CodecConfig, device: str) -> Codec:
    """The codec of a configuration in the quality and numerics mode of a stream of its own, kept for the next file."""
    from obverse.codec import from_header
    from obverse.identity import check_origin, written_by

    config = written_by(config, header)
    check_origin(config, header)
    return _kept(config, (config.to_yaml(), device, header.mode()), lambda: from_header(header, config, device))


def _kept(config: CodecConfig, key: tuple[str, str, str | None], make: Callable[[], Codec]) -> Codec:
    """The codec from memory, or made; one network is kept at a time, of a family some."""
    codec = _loaded.pop(key, None)
    if codec is None:
        siblings = [other for other in _loaded if config.qualities and _loaded[other].name == config.name]
        for other in _loaded.keys() - siblings[1 - _SIBLINGS :]:
            del _loaded[other]
        codec = make()
    _loaded[key] = codec
    return codec


def _describe_compressed(result: dict[str, Any]) -> str:
    if result["output"] is None:
        return (
            f"{result['input']}: {result['bits_estimated'] / 8:.1f} bytes estimated, {result['bpp_estimated']:.4f} bpp"
        )
    raw = ", coder raw" if result["coder"] == "raw" else ""
    return f"{result['input']} -> {result['output']}: {result['bytes']} bytes, {result['bpp']:.4f} bpp{raw}"


def _describe_decompressed(result: dict[str, Any]) -> str:
    return f"{result['input']} -> {result['output']}: {result['width']}x{result['height']}, {result['codec']}"
