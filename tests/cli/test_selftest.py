"""`selftest`, with a few of its cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.cli.exit import ExitCode
from obverse.selftest import run
from obverse.selftest.cases import Case
from obverse.selftest.layers import layer_cases

NAMES = ("embedding", "linear", "gdn")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hashes of three cases, which are all there are."""
    hashes = run.golden()
    few: dict[str, Case] = {name: layer_cases()[name] for name in NAMES}
    path = tmp_path / "few.json"
    path.write_text(json.dumps({name: hashes[name] for name in NAMES}))
    monkeypatch.setattr("obverse.selftest.run.GOLDEN", path)
    monkeypatch.setattr("obverse.selftest.cases.all_cases", lambda: few)
    return path


def corrupt(path: Path) -> None:
    path.write_text(path.read_text().replace(run.golden()["gdn"], "0" * 64))


def test_as_recorded(obverse, recorded) -> None:
    done = obverse("selftest")
    assert done.code == ExitCode.DONE
    assert done.err == ""
    system, cpu, verdict = done.out.splitlines()[:1] + done.out.splitlines()[-2:]
    assert system.startswith("torch ")
    assert " is fastest" in cpu
    assert verdict.startswith("exact: 3 cases, 3 backends, 2 thread counts")
    assert verdict.endswith(", all as recorded")


def test_a_difference_is_named(obverse, recorded) -> None:
    corrupt(recorded)
    done = obverse("selftest")
    assert done.code == ExitCode.DIVERGED
    assert done.out.splitlines()[-1] == "not exact: 1 of 3 cases differ: gdn"
    assert done.err.startswith("obverse: gdn: int8 on cpu, 1 thread (and ")


def test_json(obverse, recorded) -> None:
    done = obverse("selftest", "--json")
    assert (done.code, done.err) == (ExitCode.DONE, "")
    assert (done.json["exact"], done.json["cases"], done.json["differing"]) == (True, 3, {})
    assert done.json["devices"]["cpu"]["backends"] == ["int8", "float32", "float64"]
    assert done.json["devices"]["cpu"]["fastest"] in done.json["devices"]["cpu"]["backends"]
    corrupt(recorded)
    done = obverse("selftest", "--json")
    assert done.code == ExitCode.DIVERGED
    assert list(done.json["differing"]) == ["gdn"]
    assert "float64 on cpu, 1 thread" in done.json["differing"]["gdn"]


def test_it_takes_no_arguments(obverse) -> None:
    obverse("selftest", "gdn").failed(ExitCode.USAGE, "gdn", "see obverse selftest --help")
