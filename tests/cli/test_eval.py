"""`obverse eval`, also in several processes and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_evaluation

BASE = ("--metrics", "mean-error,colour-shift", "--protocol", "crop=24", "--out", "results")


@pytest.fixture(autouse=True)
def toy_names() -> Iterator[None]:
    with toy_evaluation.installed():
        yield


@pytest.fixture
def images(folder: Path) -> Path:
    return toy_evaluation.write_images(folder / "images", 5)


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The samples of a results folder without their times."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) | {"times": None} for line in lines]


def test_a_table(obverse, images) -> None:
    done = obverse("eval", images, "--codec", "levels:2,16", "-m", "toy-hyper", "-q", "1", *BASE)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == [
        "CODEC", "QUALITY", "IMAGES", "BPP", "BPP_ESTIMATED", "MEAN-ERROR", "ENCODING_TIME", "DECODING_TIME",
        "COLOUR-SHIFT",
    ]  # fmt: skip
    assert [row[:3] for row in rows[1:]] == [["levels", "2", "5"], ["levels", "16", "5"], ["toy-hyper", "1", "5"]]
    assert (rows[1][4], rows[3][4] == "-") == ("-", False)
    assert "levels at quality 2\n" in done.err
    assert "5 images in" in done.err
    assert {"run.json", "samples.jsonl", "levels.json", "toy-hyper.json", "set_metrics.json"} <= set(
        os.listdir("results")
    )


def test_json(obverse, images) -> None:
    done = obverse(
        "eval", images, "-m", "levels", "-q", "4", *BASE, "--json", "--limit", "3", "--keep-pictures", "none"
    )
    assert done.code == 0, done.err
    [result] = done.json["results"]
    assert (result["codec"], result["quality"], result["images"]) == ("levels", "4", 3)
    assert result["values"]["encoding_time"] == 0.25
    assert set(done.json["set_metrics"]["levels"]["4"]) == {"colour-shift"}
    assert done.json["dataset"]["count"] == 3
    assert not Path("results/pictures").exists()


def test_metric_options(obverse, images) -> None:
    words = ("-m", "levels:4", "--metrics", "mean-error", "--protocol", "full", "--out", "results", "--json")
    plain = obverse("eval", images, *words).json["results"][0]["values"]["mean-error"]
    scaled = obverse("eval", images, *words, "--metric-option", "mean-error.scale=2.5").json["results"][0]["values"]
    assert scaled["mean-error"] == pytest.approx(2.5 * plain)
    wrong = obverse("eval", images, *words, "--metric-option", "mean-error.size=1")
    wrong.failed(2, "metric 'mean-error'", "size=1")
    obverse("eval", images, *words, "--metric-option", "brightness.a=1").failed(2, "does not name")
    obverse("eval", images, *words, "--metric-option", "brightness").failed(2, "NAME.KEY=VALUE")


def test_weights(obverse, codecs, images) -> None:
    words = ("-m", "levels:4", "--metrics", "mean-error", "--protocol", "full", "--out", "results", "-m", "toy")
    other = codecs["toy-hyper"].with_suffix(".safetensors")
    assert obverse("eval", images, *words).code == 0
    plain = json.loads(Path("results/toy.json").read_text())["meta"]["fingerprint"]
    same = codecs["toy"].with_suffix(".safetensors")
    assert obverse("eval", images, *words, "-w", f"toy={same}").code == 0
    assert json.loads(Path("results/toy.json").read_text())["meta"]["fingerprint"] == plain
    done = obverse("eval", images, *words, "-w", f"toy={other}")
    assert done.code == 6
    assert "toy at quality 1" in done.err
    assert list(json.loads(Path("results/run.json").read_text())["subjects"]) == ["levels"]
    obverse("eval", images, *words, "-w", f"tony={other}").failed(2, "'tony'", "no --codec names")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-m", "levles"], 2, "did you mean 'levels'"),
        (["-m", "levels:many"], 2, "no quality 'many'"),
        (["-m", "levels:"], 2, "no list of words"),
        (["-m", "levels", "-m", "levels:2"], 2, "named twice"),
        (["-m", "levels", "--metrics", "brihtness"], 2, "did you mean 'brightness'"),
        (["-m", "levels", "--metrics", "lacking"], 4, "weights are missing"),
        (["-m", "levels", "--protocol", "vfm"], 2, "did you mean 'vfm-codec'"),
        (["-m", "toy", "--numerics", "exat"], 2, "did you mean 'exact'"),
        (["-m", "absent"], 1, "absentenc is not installed"),
        (["-m", "levels", "--protocol", "crop=100"], 1, "nothing could be measured"),
        ([], 2, "--codec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_told(obverse, images, words: list[str], code: int, said: str) -> None:
    metrics = [] if "--metrics" in words else ["--metrics", "brightness"]
    protocol = [] if "--protocol" in words else ["--protocol", "full"]
    done = obverse("eval", images, "--out", "results", *metrics, *protocol, *words)
    assert done.code == code
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_no_folders(obverse, images) -> None:
    obverse("eval", images, "-m", "levels").failed(2, "--out")
    obverse("eval", "absent", "-m", "levels", *BASE).failed(1, "'absent' is no folder")


def test_some_are_left_out(obverse, images) -> None:
    (images / "broken.png").write_bytes(b"none")
    done = obverse("eval", images, "-m", "levels:4", "-m", "absent", *BASE)
    assert done.code == 6
    assert "obverse: absent: the program absentenc is not installed; left out\n" in done.err
    assert "broken.png" in done.err
    small = obverse("eval", images, "-m", "levels:4", *BASE[:2], "--protocol", "crop=25", "--out", "other")
    assert small.code == 1
    (images / "broken.png").unlink()
    assert obverse("eval", images, "-m", "levels:4", *BASE).code == 0


WORDS = ("eval", "images", "-m", "levels:2,16", *BASE[:4], "--keep-pictures", "all", "--out")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return toy_evaluation.install(tmp_path / "site")


def run(environment: dict[str, str], *words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, "-m", "obverse", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_run_that_was_killed_goes_on(images: Path, environment: dict[str, str]) -> None:
    """It gives the samples of one that nobody disturbs, and measures nothing twice."""
    whole = run(environment, *WORDS, "whole")
    assert whole.returncode == 0, whole.stderr
    part = Path("killed/parts/samples-0.jsonl")
    command = [sys.executable, "-m", "obverse", *WORDS, "killed"]
    slow = subprocess.Popen(command, env=environment | {"DELAY": "0.2"}, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if part.exists() and part.read_text().count("\n") >= 3:
            break
        time.sleep(0.05)
    slow.send_signal(signal.SIGKILL)
    assert slow.wait() == -signal.SIGKILL
    before = part.read_text().splitlines()
    assert 3 <= len(before) < 10
    assert not Path("killed/samples.jsonl").exists()
    part.write_text("\n".join(before) + '\n{"sample": {"key": "hal')
    resumed = run(environment, *WORDS, "killed")
    assert resumed.returncode == 0, resumed.stderr
    lines = part.read_text().splitlines()
    assert lines[: len(before)] == before
    assert len(lines) == len({json.loads(line)["sample"]["key"] for line in lines}) == 10
    assert untimed(Path("killed")) == untimed(Path("whole"))
    assert Path("killed/set_metrics.json").read_bytes() == Path("whole/set_metrics.json").read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_samples_of_one(images: Path, environment: dict[str, str]) -> None:
    words = (*WORDS[:2], "-m", "pocket-hyper:1", *WORDS[2:])
    assert run(environment, *words, "one").returncode == 0
    two = run(environment, *words, "two", processes=2)
    assert two.returncode == 0, two.stderr
    assert untimed(Path("two")) == untimed(Path("one"))
    assert Path("two/set_metrics.json").read_bytes() == Path("one/set_metrics.json").read_bytes()
    parts = [path.read_text().count("\n") for path in sorted(Path("two/parts").iterdir())]
    assert sorted(parts) == [6, 9]  # of 5 images, 3 points each
    assert two.stdout.count("CODEC") == 1
    again = run(environment, *words, "two")
    assert again.returncode == 0, again.stderr
    assert [path.read_text().count("\n") for path in sorted(Path("two/parts").iterdir())] == parts
