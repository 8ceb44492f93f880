"""Every image through every codec once, on one process or many, and never twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from obverse.errors import (
    ConfigError,
    ObverseError,
    OutputError,
    PluginError,
    UnknownNameError,
    UnsupportedInputError,
    WeightsError,
)
from obverse.evaluation.dataset import Dataset
from obverse.evaluation.interfaces import AnyMetric, Metric, Sample, SetMetric, Subject, TokenMetric, Trip
from obverse.evaluation.protocols import Protocol
from obverse.evaluation.store import Record, Store, read_features, write_features
from obverse.files import make_folder
from obverse.group import Group

if TYPE_CHECKING:
    import numpy as np

Keep = Literal["none", "some", "all"]

SOME = 8
"""Images, the first by name, whose decoded pictures are kept unless none or all are asked for."""

_OF_THE_CODEC = (ConfigError, PluginError, UnknownNameError, WeightsError)
"""Errors that are no fault of the image, so that all other images would fail as well."""


@dataclass(frozen=True)
class Chosen:
    """A metric, and what it was made with."""

    metric: AnyMetric
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Changes when the same pictures may get another value."""
        return f"{self.metric.version} {json.dumps(dict(self.options), sort_keys=True)}".strip()


@dataclass(frozen=True)
class Point:
    """A codec at one of its qualities."""

    subject: Subject
    quality: Any
    fingerprint: str

    @property
    def place(self) -> str:
        """Folder of its pictures and features."""
        return f"{self.subject.name}/{self.quality}"

    def __str__(self) -> str:
        return f"{self.subject.name} at quality {self.quality}"


@dataclass(frozen=True)
class Skipped:
    """What has no numbers, and why.

    Attributes:
        what: an image, a codec, or an image with a codec.
        reason: one line.
        expected: whether the protocol says so, rather than something having failed.
    """

    what: str
    reason: str
    expected: bool = False


@dataclass(frozen=True)
class Step:
    """Progress: an image was read (`point` is None), or has been through a codec.

    Attributes:
        measured: False where everything was known already.
    """

    filename: str
    point: Point | None = None
    measured: bool = False
    skipped: Skipped | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run found, of all processes together; the first process alone has it.

    Attributes:
        samples: sorted by codec, by quality as asked for, and by filename.
        set_metrics: values by codec, quality and metric.
        skipped: sorted.
    """

    samples: Sequence[Sample]
    set_metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    skipped: Sequence[Skipped]


class Runner:
    """Codecs over a dataset.

    Args:
        folder: for results.
        dataset: images.
        protocol: which part of each is coded.
        subjects: codecs with the qualities of each that are asked for.
        metrics: of single images, of sets, and of tokens.
        keep: whose decoded pictures are kept.
        group: the processes that share the work.

    Attributes:
        skipped: what this process has left out so far.
    """

    def __init__(
        self,
        *,
        folder: Path,
        dataset: Dataset,
        protocol: Protocol,
        subjects: Sequence[tuple[Subject, Sequence[Any]]],
        metrics: Sequence[Chosen],
        keep: Keep = "some",
        group: Group | None = None,
    ) -> None:
        self.dataset, self.protocol, self.subjects, self.group = dataset, protocol, subjects, group or Group()
        self.metrics = [chosen for chosen in metrics if isinstance(chosen.metric, Metric)]
        self.set_metrics = [chosen for chosen in metrics if isinstance(chosen.metric, SetMetric)]
        self.token_metrics = [chosen for chosen in metrics if isinstance(chosen.metric, TokenMetric)]
        count = {"none": 0, "some": SOME, "all": len(dataset.files)}[keep]
        self._kept = frozenset(dataset.files[:count])
        self.store = Store(folder, self.group.rank)
        self.skipped: list[Skipped] = []
        self._images: dict[str, str] = {}

    @cached_property
    def points(self) -> list[Point]:
        """Codecs and qualities that can run here, quality by quality: a family has one network in memory."""
        points: list[Point] = []
        for subject, qualities in self.subjects:
            able, reason = subject.available(qualities)
            if reason is not None:
                others = [str(quality) for quality in qualities if quality not in able]
                which = f" at {'qualities' if others[1:] else 'quality'} {', '.join(others)}" if able else ""
                self._skip(Skipped(subject.name + which, reason))
            for quality in able:
                try:
                    points.append(Point(subject, quality, subject.fingerprint_of(quality)))
                except ObverseError as error:
                    self._skip(Skipped(f"{subject.name} at quality {quality}", str(error)))
        return points

    @property
    def steps(self) -> int:
        """How many steps this process has at most."""
        return len(self._own) * (1 + len(self.points))

    @cached_property
    def _own(self) -> list[str]:
        return self.group.share(self.dataset.files)

    def run(self) -> Iterator[Step]:
        """Do this process's share."""
        for name in self._own:
            yield self._look(name)
        for point in self.points:
            for name in self._images:
                try:
                    yield self._measure(point, name)
                except _OF_THE_CODEC as error:
                    yield Step(name, point, skipped=self._skip(Skipped(str(point), str(error))))
                    break

    def finish(self) -> Outcome | None:
        """When all processes are done: everything together, for the first of them; None for the others."""
        images = dict(sorted(self.group.gather(list(self._images.items()))))
        skipped = self.group.gather(self.skipped)
        if not self.group.first:
            return None
        self.store.reload()
        samples: list[Sample] = []
        sets: dict[str, dict[str, dict[str, float | None]]] = {}
        for point in sorted(self.points, key=lambda point: point.subject.name):  # stable: qualities keep their order
            found = [self._sample(point, name, image) for name, image in images.items()]
            samples += [sample for sample in found if sample is not None]
            if images and None not in found:
                values = {chosen.metric.name: self._of_set(chosen, point, images) for chosen in self.set_metrics}
                values |= self._of_tokens(point, images)
                if values:
                    sets.setdefault(point.subject.name, {})[str(point.quality)] = values
        unique = {(entry.what, entry.reason): entry for entry in skipped}
        return Outcome(samples, sets, [unique[key] for key in sorted(unique)])

    def _look(self, name: str) -> Step:
        """Read an image once, to know its pixels."""
        try:
            pixels = self.dataset.read(name)
        except ObverseError as error:
            return Step(name, skipped=self._skip(Skipped(name, str(error))))
        try:
            pixels = self.protocol.apply(pixels)
        except UnsupportedInputError as error:
            return Step(name, skipped=self._skip(Skipped(name, str(error), expected=True)))
        self._images[name] = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
        if name in self._kept:
            self._keep_picture("reference", name, pixels)
        return Step(name)

    def _measure(self, point: Point, name: str) -> Step:
        """Whatever is not known yet of an image at a point."""
        try:
            measured = self._complete(point, name)
        except (*_OF_THE_CODEC, OutputError):
            raise
        except ObverseError as error:
            return Step(name, point, skipped=self._skip(Skipped(f"{name} with {point}", str(error))))
        return Step(name, point, measured)

    def _complete(self, point: Point, name: str) -> bool:
        """Measure what is missing; returns whether anything was."""
        key = self._key(point, self._images[name])
        record = self.store.find(key, name)
        metrics = [c for c in self.metrics if record is None or (c.metric.name, c.identity) not in record.values]
        sets = [c for c in self.set_metrics if not self._features_path(c, point.place, key).exists()]
        counts = self.store.counts_path(point.place, key)
        count = bool(self.token_metrics) and not counts.exists()
        picture = None if record is None else record.sample.picture
        kept = picture is not None and (self.store.folder / picture).is_file()
        keep = name in self._kept and not kept
        if record is not None and not metrics and not sets and not keep and not count:
            return False
        pixels = self.protocol.apply(self.dataset.read(name))
        if record is not None and kept and not count:
            assert picture is not None
            decoded = _read_picture(self.store.folder / picture)
        else:
            trip = point.subject.trip(pixels, point.quality)
            decoded = trip.pixels
            if decoded.shape != pixels.shape:
                raise UnsupportedInputError(f"the decoded picture is {decoded.shape}, the image {pixels.shape}")
            if count:
                write_features(counts, trip.token_counts or {})
            record = record or Record(self._new_sample(point, name, key, pixels, trip), {})
        if keep:
            record = replace(
                record, sample=replace(record.sample, picture=self._keep_picture(point.place, name, decoded))
            )
        values = {(c.metric.name, c.identity): _value(c.metric, pixels, decoded) for c in metrics}
        for chosen in sets:
            self._keep_features(chosen, "reference", self._images[name], pixels)
            self._keep_features(chosen, point.place, key, decoded)
        self.store.append(replace(record, values={**record.values, **values}))
        return True

    def _key(self, point: Point, image: str) -> str:
        parts = [image, point.subject.name, point.fingerprint, str(point.quality), self.protocol.name]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _new_sample(self, point: Point, name: str, key: str, pixels: np.ndarray, trip: Trip) -> Sample:
        height, width = pixels.shape[:2]
        area = height * width
        return Sample(
            key=key,
            filename=name,
            image=self._images[name],
            width=width,
            height=height,
            codec=point.subject.name,
            fingerprint=point.fingerprint,
            quality=str(point.quality),
            protocol=self.protocol.name,
            bytes=trip.file_bytes,
            bpp=8 * trip.file_bytes / area,
            bpp_payload=None if trip.payload_bytes is None else 8 * trip.payload_bytes / area,
            bpp_estimated=None if trip.estimated_bits is None else trip.estimated_bits / area,
            bpp_fixed=None if trip.fixed_bits is None else trip.fixed_bits / area,
            times={
                "encoding": trip.encoding_seconds,
                "decoding": trip.decoding_seconds,
                "coder_encoding": trip.coder_encoding_seconds,
                "coder_decoding": trip.coder_decoding_seconds,
            },
        )

    def _sample(self, point: Point, name: str, image: str) -> Sample | None:
        """What is known of an image at a point, with the metrics of this run; None where some are missing."""
        record = self.store.find(self._key(point, image), name)
        wanted = [(chosen.metric.name, chosen.identity) for chosen in self.metrics]
        if record is None or any(value not in record.values for value in wanted):
            return None
        return replace(record.sample, metrics={value[0]: record.values[value] for value in wanted})

    def _of_set(self, chosen: Chosen, point: Point, images: Mapping[str, str]) -> float | None:
        """The value of a metric of sets; the features of all images are there."""
        assert isinstance(chosen.metric, SetMetric)
        reference = [self._features_path(chosen, "reference", image) for image in images.values()]
        decoded = [self._features_path(chosen, point.place, self._key(point, image)) for image in images.values()]
        if not all(path.exists() for path in (*reference, *decoded)):
            return None
        value = chosen.metric.compute([read_features(p) for p in reference], [read_features(p) for p in decoded])
        return value if value is not None and math.isfinite(value) else None

    def _of_tokens(self, point: Point, images: Mapping[str, str]) -> dict[str, float | None]:
        """The values of metrics of tokens, means over arrays if there are several; empty for codecs without tokens."""
        if not self.token_metrics:
            return {}
        paths = [self.store.counts_path(point.place, self._key(point, image)) for image in images.values()]
        if not all(path.exists() for path in paths):
            return {}
        pooled: dict[str, np.ndarray] = {}
        for path in paths:
            for name, counts in read_features(path).items():
                pooled[name] = pooled[name] + counts if name in pooled else counts
        return {c.metric.name: _of_counts(c.metric, list(pooled.values())) for c in self.token_metrics if pooled}

    def _features_path(self, chosen: Chosen, place: str, key: str) -> Path:
        return self.store.features_path(chosen.metric.name, chosen.identity, place, key)

    def _keep_features(self, chosen: Chosen, place: str, key: str, pixels: np.ndarray) -> None:
        assert isinstance(chosen.metric, SetMetric)
        path = self._features_path(chosen, place, key)
        if not path.exists():
            write_features(path, chosen.metric.features(pixels))

    def _keep_picture(self, place: str, name: str, pixels: np.ndarray) -> str:
        """Write a picture; returns its path relative to the results folder."""
        from obverse.images import write_image

        relative = self.store.picture_name(place, name)
        path = self.store.folder / relative
        make_folder(path.parent)
        write_image(path, pixels, force=True)
        return relative

    def _skip(self, skipped: Skipped) -> Skipped:
        self.skipped.append(skipped)
        return skipped


def _value(metric: AnyMetric, reference: np.ndarray, decoded: np.ndarray) -> float | None:
    assert isinstance(metric, Metric)
    value = metric.measure(reference, decoded)
    return float(value) if value is not None and math.isfinite(value) else None


def _of_counts(metric: AnyMetric, arrays: Sequence[np.ndarray]) -> float | None:
    assert isinstance(metric, TokenMetric)
    values = [value for counts in arrays if (value := metric.compute(counts)) is not None]
    return fmean(values) if values else None


def _read_picture(path: Path) -> np.ndarray:
    from obverse.images import read_image

    return read_image(path).pixels
