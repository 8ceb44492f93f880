"""`obverse compress` of many images: one manifest, whichever process and run did them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toys
from PIL import Image

WORDS = ("compress", "photos", "-m", "toy", "-d", "out", "--manifest", "out/manifest.jsonl")


@pytest.fixture
def photos(folder: Path) -> Path:
    for number in range(6):
        path = folder / "photos" / ("more" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.picture(32 + number, 24, seed=number)).save(path)
    return folder / "photos"


def entries(path: str = "out/manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": None} for line in Path(path).read_text().splitlines()]


def unverified(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a stream alone tells of itself, which is not whether it was verified."""
    return [line | {"verified": None} for line in lines]


def streams() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path("out").rglob("*.obv"))}


def test_a_line_for_each_input(obverse, photos) -> None:
    done = obverse(*WORDS, "--json")
    assert done.code == 0, done.err
    assert entries() == [result | {"seconds": None} for result in done.json["results"]]
    assert [entry["input"] for entry in entries()] == [
        "photos/0.png", "photos/2.png", "photos/4.png", "photos/more/1.png", "photos/more/3.png", "photos/more/5.png",
    ]  # fmt: skip
    assert {entry["output"] for entry in entries()} == set(streams())
    assert all(Path(entry["output"]).stat().st_size == entry["bytes"] for entry in entries())
    assert not list(Path("out").glob("*.part-*"))


def test_failures_are_lines_too_and_are_tried_again(obverse, photos) -> None:
    good = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(b"broken")
    assert obverse(*WORDS).code == 6
    failed = entries()[1]
    assert (failed["input"], failed["output"], failed["code"]) == ("photos/2.png", None, 1)
    assert "photos/2.png" in failed["error"]
    (photos / "2.png").write_bytes(good)
    done = obverse(*WORDS, "--resume")
    assert (done.code, "1 done, 5 skipped, 0 failed\n" in done.err) == (0, True)
    resumed = entries()
    assert obverse(*WORDS, "--force").code == 0
    assert entries() == resumed


def test_a_run_that_was_killed_leaves_parts(obverse, photos) -> None:
    """Whatever the last process wrote of its line, and where it did not come to write one."""
    assert obverse(*WORDS).code == 0
    whole = entries()
    lines = Path("out/manifest.jsonl").read_text().splitlines(keepends=True)
    Path("out/manifest.jsonl").unlink()
    Path("out/manifest.jsonl.part-0").write_text(lines[3] + lines[0][:30])
    Path("out/manifest.jsonl.part-1").write_text(lines[5] + lines[2])
    for entry in (whole[1], whole[4]):
        Path(entry["output"]).unlink()
    assert obverse(*WORDS, "--resume").code == 0
    assert unverified(entries()) == unverified(whole)
    assert not list(Path("out").glob("*.part-*"))


def test_what_is_wrong_is_told(obverse, photos) -> None:
    assert obverse(*WORDS).code == 0
    obverse(*WORDS[:5], "other", *WORDS[6:]).failed(1, "manifest.jsonl", "exists")
    obverse(*WORDS[:3], "toy", "--entropy-estimation", *WORDS[6:]).failed(2, "--manifest")
    Path("out/manifest.jsonl").write_text("[1]\n")
    obverse(*WORDS, "--resume").failed(1, "no manifest that can be gone on with")


@pytest.mark.slow
def test_two_processes_share_the_images(obverse, photos, configs, tmp_path: Path) -> None:
    assert obverse(*WORDS).code == 0
    whole, alone = entries(), streams()
    subprocess.run(["rm", "-r", "out"], check=True)
    toys.install(tmp_path, configs["toy"])
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "obverse"]
    slow = subprocess.Popen([*launch, *WORDS], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(1000):
        if any(Path(f"out/manifest.jsonl.part-{rank}").exists() for rank in range(2)):
            break
        time.sleep(0.02)
    slow.send_signal(signal.SIGTERM)  # of the launcher, which ends its processes
    slow.communicate()
    done = subprocess.run([*launch, *WORDS, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert streams() == alone
    assert unverified(entries()) == unverified(whole)
    assert done.stderr.count("0 failed") == 1
