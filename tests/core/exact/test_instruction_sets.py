"""The same numbers under every set of instructions: a process each, and proof that it really ran other kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_numbers import digests

from obverse.exact import BACKENDS

PROGRAM = Path(__file__).parents[2] / "exact_numbers.py"

LOWEST = "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41"
NO_VNNI = "ONEDNN_MAX_CPU_ISA=AVX2"
NO_MKLDNN = "mkldnn=off"
DECISIVE = (LOWEST, NO_VNNI, NO_MKLDNN)
OTHERS = (
    "ATEN_CPU_CAPABILITY=default",
    "ATEN_CPU_CAPABILITY=avx2",
    "MKL_CBWR=COMPATIBLE",
    "MKL_CBWR=AVX2",
    "ONEDNN_MAX_CPU_ISA=SSE41",
    "ONEDNN_MAX_CPU_ISA=AVX512_CORE",
    "ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2",
    "OMP_NUM_THREADS=2",
    f"{LOWEST} OMP_NUM_THREADS=2 mkldnn=off",
)
SETTINGS = [*DECISIVE, *(pytest.param(setting, marks=pytest.mark.slow) for setting in OTHERS)]
"""Environment variables of a process; `mkldnn=off` switches a library off."""

REDUCED = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OBVERSE_EXACT_BACKEND")


@lru_cache
def report(setting: str) -> dict[str, Any]:
    """What a process with a setting, and with no other one, computes."""
    environment = {name: value for name, value in os.environ.items() if name not in REDUCED}
    environment |= {"OMP_NUM_THREADS": "1"} | dict(part.split("=") for part in setting.split() if part != NO_MKLDNN)
    arguments = [NO_MKLDNN] if NO_MKLDNN in setting else []
    program = [sys.executable, str(PROGRAM), *arguments]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@lru_cache
def expected() -> dict[str, str]:
    return digests("float64")


def instructions() -> set[str]:
    """What this processor has, as Linux names it; empty where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def need(*names: str) -> None:
    if missing := sorted(set(names) - instructions()):
        pytest.skip(f"this processor has no {', '.join(missing)}: fewer instructions may not change its kernels")


@pytest.mark.parametrize("setting", SETTINGS)
def test_exact_numbers_are_those_of_this_process(setting: str) -> None:
    for backend in BACKENDS:
        assert report(setting)["exact"][backend] == expected(), backend


def test_step_by_step_is_parallel() -> None:
    assert expected()["llama, step by step"] == expected()["llama, parallel"]


def test_different_parts_have_different_numbers() -> None:
    assert len(set(expected().values())) == len(expected()) - 1  # the two passes of the transformer


@pytest.mark.parametrize("setting", [LOWEST, pytest.param("ATEN_CPU_CAPABILITY=default", marks=pytest.mark.slow)])
def test_control_torch_runs_without_vectors(setting: str) -> None:
    need("avx2")
    assert report(setting)["capability"] == "DEFAULT"
    assert torch.backends.cpu.get_cpu_capability() != "DEFAULT"


@pytest.mark.slow
def test_control_torch_runs_with_two_threads() -> None:
    assert report("OMP_NUM_THREADS=2")["threads"] == 2
    assert report("")["threads"] == 1


@pytest.mark.parametrize(
    "setting",
    [LOWEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS[:1] + OTHERS[2:3])],
)
def test_control_float32_logits_differ(setting: str) -> None:
    need("avx2", "fma")
    if not torch.backends.mkl.is_available():
        pytest.skip("torch was built without MKL, whose kernels the settings choose")
    assert report(setting)["float32"]["llama"] != report("")["float32"]["llama"]


@pytest.mark.parametrize(
    "setting",
    [LOWEST, NO_VNNI, *(pytest.param(f"ONEDNN_MAX_CPU_ISA={name}", marks=pytest.mark.slow) for name in ("SSE41",))],
)
def test_control_full_range_bytes_differ_without_vnni(setting: str) -> None:
    need("avx512_vnni")
    assert report(setting)["bytes"] != report("")["bytes"]


def test_control_float32_numbers_of_one_setting_are_the_same_twice() -> None:
    first = report("")
    report.cache_clear()
    assert report("") == first
