"""The README's first two bash blocks, as they stand, in a fresh clone; and that .ci/run runs just these."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci" / "run"
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone would hold: every file that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a clone")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def bash(script: str, folder: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "OBVERSE", "VIRTUAL"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_blocks_in_a_fresh_clone(clone: Path) -> None:
    bash(BLOCKS[0], clone)
    bash(BLOCKS[0], clone)  # a second time too
    assert {path.name for path in (clone / "out").iterdir()} == {"brushes.obv", "brushes.png"}
    # The second block as it stands, but for most of the tests: this is one of them.
    assert " passed" in bash(BLOCKS[1], clone, PYTEST_ADDOPTS="tests/registry tests/test_layers.py")


def test_outputs_are_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"out/", ".venv/"} <= set(ignored)
    assert "-d out " in BLOCKS[0]


@pytest.mark.parametrize("number", [1, 2])
def test_ci_runs_the_blocks_of_the_readme(number: int) -> None:
    function = re.search(r"^block\(\) \{.*?^\}$", CI.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert function
    assert bash(f"{function[0]}\nblock {number}", ROOT) == BLOCKS[number - 1]
    assert f'"$(block {number})"' in CI.read_text(encoding="utf-8")


def test_ci_checks_what_contributors_are_told_to_check() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.findall(r"^```bash\n(.*?)^```$", contributing, re.DOTALL | re.MULTILINE)[1].splitlines()
    done = [line.strip() for line in [*CI.read_text(encoding="utf-8").splitlines(), *BLOCKS[1].splitlines()]]
    assert told
    assert all(line in done for line in told)
    assert os.access(CI, os.X_OK)
