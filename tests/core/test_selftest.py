"""The self-test: every case is as recorded, and numbers that are not are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from obverse.exact import backends, layers
from obverse.selftest import run
from obverse.selftest.cases import Case, all_cases, digest
from obverse.selftest.layers import layer_cases
from obverse.selftest.models import toys

FLOAT64 = run.Setting("cpu", "float64", 1)
INT8 = run.Setting("cpu", "int8", 1)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return all_cases()


@pytest.fixture(scope="module")
def settings() -> list[run.Setting]:
    return run.settings()


def outcomes(*names: str, settings: list[run.Setting] | None = None) -> dict[str, list[str]]:
    chosen = {name: case for name, case in layer_cases().items() if name in names}
    recorded = {name: run.golden()[name] for name in names}
    return {outcome.name: outcome.wrong for outcome in run.check(chosen, settings or [FLOAT64], recorded)}


@pytest.mark.parametrize("name", run.golden())
def test_a_case_is_as_recorded(name: str, cases: dict[str, Case], settings: list[run.Setting]) -> None:
    (outcome,) = run.check({name: cases[name]}, settings, {name: run.golden()[name]})
    assert outcome.wrong == []


def test_every_case_is_recorded(cases: dict[str, Case]) -> None:
    assert list(run.golden()) == list(cases)
    assert len(set(run.golden().values())) == len(cases), "two cases test the same"


def test_toys_have_names_of_their_own() -> None:
    assert not set(toys()) & set(layer_cases())


def test_settings_are_every_backend_with_one_thread_and_with_all() -> None:
    found = [setting for setting in run.settings() if setting.device == "cpu"]
    assert {setting.backend for setting in found} == {"int8", "float32", "float64"}
    assert len({(setting.backend, setting.threads) for setting in found}) == len(found) == 6
    assert min(setting.threads for setting in found) == 1
    assert [str(FLOAT64), str(run.Setting("cuda", "int8", 2))] == [
        "float64 on cpu, 1 thread",
        "int8 on cuda, 2 threads",
    ]


def test_another_hash_is_found() -> None:
    chosen = {name: layer_cases()[name] for name in ("embedding", "gdn")}
    recorded = {"embedding": run.golden()["embedding"], "gdn": "0" * 64}
    found = {outcome.name: outcome.wrong for outcome in run.check(chosen, [FLOAT64, INT8], recorded)}
    assert found == {"embedding": [], "gdn": ["float64 on cpu, 1 thread", "int8 on cpu, 1 thread"]}


def test_unrecorded_and_missing_cases_are_found() -> None:
    chosen = {"embedding": layer_cases()["embedding"]}
    found = {outcome.name: outcome.wrong for outcome in run.check(chosen, [FLOAT64], {"gone": ""})}
    assert found == {"embedding": ["not recorded"], "gone": ["recorded, but no case"]}


def test_a_changed_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers.RMSNorm.forward

    def nearly(self: layers.RMSNorm, x: Tensor) -> Tensor:
        return right(self, x) * (1 + 2.0**-52)

    monkeypatch.setattr(layers.RMSNorm, "forward", nearly)
    assert outcomes("rms-norm", "linear") == {"rms-norm": ["float64 on cpu, 1 thread"], "linear": []}


def test_a_wrong_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = backends.product

    def off_by_one(activations: Tensor, carried: Tensor, backend: str) -> Tensor:
        return right(activations, carried, backend) + (backend == "int8")

    monkeypatch.setattr(backends, "product", off_by_one)
    assert outcomes("linear", settings=[FLOAT64, INT8]) == {"linear": ["int8 on cpu, 1 thread"]}


def test_the_way_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers.Linear.forward

    def depends_on_rows(self: layers.Linear, x: Tensor) -> Tensor:
        return right(self, x) + (0 if len(x) > 1 else 2.0**-40)

    monkeypatch.setattr(layers.Linear, "forward", depends_on_rows)
    assert outcomes("linear-rows") == {"linear-rows": ["float64 on cpu, 1 thread, row by row"]}


def test_an_error_counts_as_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(layers.GDN, "forward", broken)
    assert outcomes("gdn") == {"gdn": ["float64 on cpu, 1 thread: RuntimeError: no kernel"]}


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    outcomes("embedding", settings=[run.Setting("cpu", "float64", before + 1)])
    assert torch.get_num_threads() == before


def test_models_leave_out_settings_that_are_not_for_them(cases: dict[str, Case]) -> None:
    ran: list[torch.device] = []

    def compute(device: torch.device) -> dict[str, list[Tensor]]:
        ran.append(device)
        return {}

    setting = run.Setting("cpu", "float32", 1, models=False)
    assert not next(run.check({"x": Case(compute, model=True)}, [setting], {"x": ""})).wrong
    assert ran == []


def test_a_hash_tells_shapes_and_values_but_not_the_sign_of_zero() -> None:
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert digest([ones]) != digest([ones.view(3, 2)])
    assert digest([ones]) != digest([ones * (1 + 2.0**-52)])
    assert digest([ones]) != digest([ones, ones])
    assert digest([torch.zeros(2)]) == digest([-torch.zeros(2)])
    known = "1496b8f24647796190d0e7f3cb91114de6590693e91c8333a55ab6ddc4bec8ac"
    assert digest([torch.arange(3)]) == known


def test_recording_gives_what_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = {"gdn": run.golden()["gdn"]}
    monkeypatch.setattr(run, "GOLDEN", tmp_path / "golden.json")
    run.record({"gdn": layer_cases()["gdn"]})
    assert run.golden() == expected


def test_the_report() -> None:
    settings = [FLOAT64, INT8, run.Setting("cpu", "int8", 3)]
    good = run.report([run.Outcome("linear", [])], settings)
    assert good["exact"]
    assert good["devices"]["cpu"]["backends"] == ["float64", "int8"]
    assert run.verdict(good) == "exact: 1 cases, 2 backends, 2 thread counts, all as recorded"
    bad = run.report([run.Outcome("linear", ["here"]), run.Outcome("gdn", [])], settings)
    assert not bad["exact"]
    assert bad["differing"] == {"linear": ["here"]}
    assert run.verdict(bad) == "not exact: 1 of 2 cases differ: linear"
