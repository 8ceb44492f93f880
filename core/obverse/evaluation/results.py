"""Result files, in CompressAI's shape."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from obverse.__about__ import __version__
from obverse.evaluation.interfaces import Metric, Sample, Subject
from obverse.evaluation.runner import Outcome, Runner
from obverse.files import write_beside

SCHEMA = 1

_TIMES = ("encoding", "decoding", "coder_encoding", "coder_decoding")
_RATES = ("bpp", "bpp_payload", "bpp_estimated", "bpp_fixed")


@dataclass(frozen=True)
class Average:
    """A codec at a quality, over all images.

    Attributes:
        values: means of the images' values, by name: rates, metrics, `encoding_time` and the other times in seconds.
            None where no image has a value.
        undefined: how many images have no value, by name, where any lacks one.
    """

    codec: str
    quality: str
    images: int
    values: Mapping[str, float | None]
    undefined: Mapping[str, int]


def averages(samples: Sequence[Sample]) -> list[Average]:
    """Means of each codec and quality, in the order of the samples, which are sorted by them."""
    found: list[Average] = []
    for (codec, quality), group in groupby(samples, key=lambda sample: (sample.codec, sample.quality)):
        rows = [_values(sample) for sample in group]
        present = {name: [value for row in rows if (value := row[name]) is not None] for name in rows[0]}
        means = {name: fmean(values) if values else None for name, values in present.items()}
        undefined = {name: len(rows) - len(values) for name, values in present.items() if len(values) < len(rows)}
        found.append(Average(codec, quality, len(rows), means, undefined))
    return found


def write_results(folder: Path, runner: Runner, outcome: Outcome) -> None:
    """Write `run.json`, `samples.jsonl`, `CODEC.json` of each codec and `set_metrics.json`.

    Raises:
        OutputError: one of them cannot be written.
    """
    run = describe_run(runner, outcome)
    _write(folder / "run.json", run)
    lines = [json.dumps(asdict(sample)) + "\n" for sample in outcome.samples]
    write_beside(folder / "samples.jsonl", "".join(lines).encode(), force=True)
    for name, samples in groupby(outcome.samples, key=lambda sample: sample.codec):
        _write(folder / f"{name}.json", codec_results(name, list(samples), run))
    _write(folder / "set_metrics.json", outcome.set_metrics)


def codec_results(name: str, samples: Sequence[Sample], run: Mapping[str, Any]) -> dict[str, Any]:
    """A codec's file as CompressAI's plots read it: lists of equal length, sorted by rate.

    A value is the mean of the images' values, and null where no image has one. MS-SSIM is linear. Names that have no
    value at any quality are left out.
    """
    points = sorted(averages(samples), key=lambda point: point.values["bpp"] or 0.0)
    keys = [key for key in points[0].values if any(point.values[key] is not None for point in points)]
    undefined = {key: [point.undefined.get(key, 0) for point in points] for key in keys}
    meta = {
        **run["subjects"][name],
        "schema": SCHEMA,
        "source": "measured",
        "dataset": run["dataset"],
        "protocol": run["protocol"],
        "metrics": run["metrics"],
        "qualities": [point.quality for point in points],
        "images": [point.images for point in points],
        "undefined": {key: counts for key, counts in undefined.items() if any(counts)},
        "times": "mean seconds per image, wall clock, networks loaded and warm, batch 1, device synchronised",
        "environment": run["environment"],
    }
    return {
        "name": name,
        "description": f"{run['dataset']['name']}, {run['protocol']['name']}",
        "meta": meta,
        "results": {key: [point.values[key] for point in points] for key in keys},
        "results_by_sample": _by_sample(samples),
    }


def describe_run(runner: Runner, outcome: Outcome) -> dict[str, Any]:
    """What `run.json` says."""
    measured = {sample.codec for sample in outcome.samples}
    metrics = sorted(
        [*runner.metrics, *runner.set_metrics, *runner.token_metrics], key=lambda chosen: chosen.metric.name
    )
    return {
        "schema": SCHEMA,
        "dataset": runner.dataset.describe(),
        "protocol": runner.protocol.describe(),
        "metrics": {
            chosen.metric.name: {
                "direction": chosen.metric.direction,
                "range": list(chosen.metric.range),
                "colour_space": chosen.metric.colour_space,
                "version": chosen.metric.version,
                "needs_reference": chosen.metric.needs_reference,
                "of": "image" if isinstance(chosen.metric, Metric) else "set",
                "options": dict(chosen.options),
            }
            for chosen in metrics
        },
        "subjects": {
            subject.name: describe_subject(subject, qualities)
            for subject, qualities in runner.subjects
            if subject.name in measured
        },
        "skipped": [{"what": entry.what, "reason": entry.reason} for entry in outcome.skipped],
        "environment": environment(runner.group.size),
    }


def describe_subject(subject: Subject, qualities: Sequence[Any]) -> dict[str, Any]:
    """What result files say of a codec."""
    told = dict(subject.describe())
    lifted = {name: told.pop(name, None) for name in ("parameters", "codebook", "tokens", "licence")}
    return {
        "fingerprint": subject.fingerprint,
        "qualities": [str(quality) for quality in qualities],
        "describe": told,
        **lifted,
    }


def environment(processes: int) -> dict[str, Any]:
    """Machine and versions."""
    torch = sys.modules.get("torch")
    return {
        "obverse": __version__,
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None,
        "processes": processes,
    }


def _values(sample: Sample) -> dict[str, float | None]:
    rates = {name: getattr(sample, name) for name in _RATES}
    return {**rates, **sample.metrics, **{f"{name}_time": sample.times.get(name) for name in _TIMES}}


def _by_sample(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    rows = [
        {"filename": sample.filename, "quality": sample.quality, "bytes": sample.bytes, **_values(sample)}
        for sample in samples
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(path: Path, body: Mapping[str, Any]) -> None:
    write_beside(path, (json.dumps(body, indent=2, default=str) + "\n").encode(), force=True)
