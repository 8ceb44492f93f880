"""The self-test: every case with every backend, thread count and device, compared with what is recorded."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from obverse.exact.backends import backend_for, usable_backends, use_backend
from obverse.selftest.cases import Case, digest
from obverse.threads import threads

GOLDEN = Path(__file__).with_name("golden.json")
"""Hashes by the name of the case."""


@dataclass(frozen=True)
class Setting:
    """How arithmetic is carried out.

    Attributes:
        device, backend, threads: what computes.
        models: cases that are whole models run like this, too.
    """

    device: str
    backend: str
    threads: int
    models: bool = True

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}, {self.threads} thread{'s' * (self.threads > 1)}"


def golden() -> dict[str, str]:
    """The recorded hashes."""
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8")))


def record(cases: Mapping[str, Case]) -> None:
    """Write the hashes of this machine, made with the backend of float64."""
    hashes = {}
    with use_backend("float64"), torch.no_grad():
        for name, case in cases.items():
            hashes[name] = digest(next(iter(case.compute(torch.device("cpu")).values())))
    GOLDEN.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def settings() -> list[Setting]:
    """Every device with every backend that is right there; on the processor with one thread and with all."""
    cpu = torch.device("cpu")
    usable, fastest, threads = usable_backends(cpu), backend_for(cpu), max(2, torch.get_num_threads())
    found = [Setting("cpu", backend, 1) for backend in usable]
    found += [Setting("cpu", backend, threads, models=backend == fastest) for backend in usable]
    if torch.cuda.is_available():
        found += [Setting("cuda", backend, 1) for backend in usable_backends(torch.device("cuda"))]
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of a case: where it gives other numbers than recorded, empty when it is right everywhere."""

    name: str
    wrong: list[str]


def check(cases: Mapping[str, Case], settings: Sequence[Setting], recorded: Mapping[str, str]) -> Iterator[Outcome]:
    """Compare cases one after another, and then say which recorded ones are missing."""
    for name, case in cases.items():
        used = [setting for setting in settings if setting.models or not case.model]
        if name in recorded:
            wrong = [text for setting in used for text in _differences(case, setting, recorded[name])]
        else:
            wrong = ["not recorded"]
        yield Outcome(name, wrong)
    yield from (Outcome(name, ["recorded, but no case"]) for name in recorded if name not in cases)


def _differences(case: Case, setting: Setting, expected: str) -> list[str]:
    try:
        with use_backend(setting.backend), threads(setting.threads), torch.no_grad():
            results = case.compute(torch.device(setting.device))
    except Exception as error:
        return [f"{setting}: {type(error).__name__}: {error}"]
    return [f"{setting}{', ' if way else ''}{way}" for way, tensors in results.items() if digest(tensors) != expected]


def report(outcomes: Sequence[Outcome], settings: Sequence[Setting]) -> dict[str, Any]:
    """Everything that the command prints, for JSON as well."""
    devices = list(dict.fromkeys(setting.device for setting in settings))
    return {
        "exact": not any(outcome.wrong for outcome in outcomes),
        "cases": len(outcomes),
        "differing": {outcome.name: outcome.wrong for outcome in outcomes if outcome.wrong},
        "devices": {
            device: {
                "fastest": backend_for(torch.device(device)),
                "backends": list(dict.fromkeys(some.backend for some in settings if some.device == device)),
            }
            for device in devices
        },
        "threads": sorted({setting.threads for setting in settings if setting.device == "cpu"}),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def verdict(report: Mapping[str, Any]) -> str:
    """One line."""
    differing, cases = report["differing"], report["cases"]
    if differing:
        return f"not exact: {len(differing)} of {cases} cases differ: {', '.join(differing)}"
    backends = {backend for device in report["devices"].values() for backend in device["backends"]}
    devices = f", {len(report['devices'])} devices" if len(report["devices"]) > 1 else ""
    return (
        f"exact: {cases} cases, {len(backends)} backends, {len(report['threads'])} thread counts{devices}, "
        "all as recorded"
    )
