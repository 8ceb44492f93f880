"""Results that were written before: a folder of `obverse eval`, or one file in CompressAI's shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

from obverse.errors import UnsupportedInputError
from obverse.evaluation.axes import ALIASES
from obverse.evaluation.interfaces import Sample
from obverse.files import read_bytes

RUN, SAMPLES, SET_METRICS = "run.json", "samples.jsonl", "set_metrics.json"

_SAMPLE_KEYS = frozenset(field.name for field in fields(Sample))


@dataclass(frozen=True)
class Group:
    """All images of one codec at one quality."""

    codec: str
    quality: str
    samples: Sequence[Sample]

    def mean(self, value: Callable[[Sample], float | None]) -> float | None:
        """Mean over the images, those without a value left out; None where none has one."""
        values = [told for told in map(value, self.samples) if told is not None]
        return sum(values) / len(values) if values else None

    def total(self, value: Callable[[Sample], float | None]) -> float | None:
        """Sum over the images; None where one has no value."""
        values = [value(sample) for sample in self.samples]
        told = [one for one in values if one is not None]
        return sum(told) if told and len(told) == len(values) else None


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        folder: where it is.
        run: content of `run.json`.
        groups: by codec as in `run.json`, then by mean bits per pixel.
        set_metrics: by codec, quality and metric.
    """

    folder: Path
    run: Mapping[str, Any]
    groups: Sequence[Group]
    set_metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]

    @property
    def subjects(self) -> Mapping[str, Mapping[str, Any]]:
        """What `run.json` tells of each codec."""
        subjects: Mapping[str, Mapping[str, Any]] = self.run["subjects"]
        return subjects


def read_folder(folder: str | Path) -> Results:
    """The results that `obverse eval` wrote into a folder.

    Raises:
        UnsupportedInputError: files are missing, or are not what that command writes.
    """
    folder = Path(folder)
    run = _mapping(read_json(folder / RUN), folder / RUN)
    subjects, metrics = run.get("subjects"), run.get("metrics")
    if not _records(subjects) or not _records(metrics):
        raise UnsupportedInputError(
            f"{str(folder / RUN)!r} has no subjects and metrics; is it a folder of obverse eval?"
        )
    together: dict[tuple[str, str], list[Sample]] = {}
    for sample in _samples(folder / SAMPLES):
        together.setdefault((sample.codec, sample.quality), []).append(sample)
    groups = [Group(codec, quality, samples) for (codec, quality), samples in together.items()]
    order = {codec: number for number, codec in enumerate(subjects)}
    groups.sort(key=lambda group: (order.get(group.codec, len(order)), group.codec, group.mean(lambda one: one.bpp)))
    pooled = folder / SET_METRICS
    set_metrics = _mapping(read_json(pooled), pooled) if pooled.is_file() else {}
    return Results(folder, run, groups, set_metrics)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UnsupportedInputError: it cannot be read, or is none.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UnsupportedInputError(f"{str(path)!r} is no JSON: {error}") from error


@dataclass(frozen=True)
class CodecFile:
    """One codec's results, in CompressAI's shape.

    Attributes:
        name: of the codec.
        source: `measured`, or `paper` for published numbers.
        results: lists of one length by name, among them `bpp`.
    """

    name: str
    source: str
    results: Mapping[str, Sequence[float | None]]


def read_codec_file(path: str | Path) -> CodecFile:
    """A result file of `obverse eval` or CompressAI, also an old one, whose metrics have short names.

    Raises:
        UnsupportedInputError: it cannot be read, or has no rates.
    """
    path = Path(path)
    body = _mapping(read_json(path), path)
    results = body.get("results", body)
    lists = {key: value for key, value in results.items() if _numbers(value)} if isinstance(results, dict) else {}
    if "bpp" not in lists:
        raise UnsupportedInputError(f"{str(path)!r} has no results with a list of bpp, as CompressAI's result files")
    uneven = [key for key, value in lists.items() if len(value) != len(lists["bpp"])]
    if uneven:
        raise UnsupportedInputError(f"{str(path)!r}: {', '.join(uneven)} and bpp are not of one length")
    meta = body.get("meta")
    source = str(meta.get("source", "measured")) if isinstance(meta, dict) else "measured"
    named = {ALIASES.get(key, key): value for key, value in lists.items()}
    return CodecFile(str(body.get("name", path.stem)), source, named | lists)


def _records(value: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(one is None or isinstance(one, (int, float)) for one in value)


def _mapping(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnsupportedInputError(f"{str(path)!r} holds no keys and values; is it a result file?")
    return value


def _samples(path: Path) -> list[Sample]:
    try:
        lines = read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UnsupportedInputError(f"{str(path)!r} is no text: {error}") from error
    return [_sample(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _sample(line: str, where: str) -> Sample:
    try:
        told = json.loads(line)
        sample = Sample(**{key: value for key, value in told.items() if key in _SAMPLE_KEYS})
        float(sample.bpp)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnsupportedInputError(f"{where}: not a sample of obverse eval: {error}") from error
    return sample
