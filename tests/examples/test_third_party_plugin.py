"""The example plugin: in this process, and as an installed wheel beside the wheel of Obverse."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from obverse.cli import main
from obverse_registry import registry

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_plugin"


@contextmanager
def importable() -> Iterator[None]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield
    finally:
        sys.path.remove(str(EXAMPLE))


@contextmanager
def installed() -> Iterator[None]:
    """The plugin, as if it were installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["obverse"].items()
    with importable():
        registry().add(importlib.import_module(module), name)
        try:
            yield
        finally:
            registry().remove(name)


with importable():
    TestSignQuantizer = runpy.run_path(str(EXAMPLE / "tests" / "test_quantizer.py"))["TestSignQuantizer"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small picture in an otherwise empty folder."""
    path = tmp_path / "photo.png"
    with Image.open(ROOT / "examples" / "images" / "brushes.jpg") as image:
        image.crop((300, 200, 380, 264)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_codec_goes_there_and_back(photo: Path) -> None:
    stream, decoded = photo.with_suffix(".obv"), photo.with_name("decoded.png")
    with installed():
        assert main(["compress", "-m", "pocket-signs", str(photo)]) == 0
        assert main(["decompress", str(stream), str(decoded)]) == 0
    assert pixels(decoded).shape == pixels(photo).shape
    assert len(np.unique(pixels(decoded))) > 10
    # 6 x 5 cells of 14 pixels, a byte each, and 19 bytes of header at most
    assert stream.stat().st_size <= 30 + 19 + 1


def test_without_the_plugin_a_stream_says_what_is_missing(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = photo.with_suffix(".obv")
    with installed():
        assert main(["compress", "-m", "pocket-signs", "--metadata", str(photo)]) == 0
    assert main(["decompress", "-f", str(stream)]) == 4
    assert "it says 'pocket-signs'" in capsys.readouterr().err
    assert main(["compress", "-f", str(photo)]) == 0


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a command outside of the repository; return its output, or its complaint if it should fail."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OBVERSE", "VIRTUAL"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def wheel(project: Path, folder: Path) -> Path:
    """Build the wheel of a project."""
    # Without hatchling in this environment pip fetches it, which takes a package index.
    isolation = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", folder, project, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheels_in_a_fresh_environment(tmp_path: Path, photo: Path) -> None:
    wheels = []
    for project in (ROOT, EXAMPLE):
        folder = tmp_path / f"wheel-{project.name}"
        folder.mkdir()
        wheels.append(wheel(project, folder))
    inside = set(zipfile.ZipFile(wheels[0]).namelist())
    for file in (
        "obverse/py.typed",
        "obverse_registry/py.typed",
        "obverse_pocket/py.typed",
        "obverse_pocket/configs/pocket-vq.yaml",
        "obverse_pocket/weights/pocket-vq-tokenizer.safetensors",
        "obverse_pocket/weights/pocket-vq-prior.safetensors",
        "obverse_pocket/weights/pocket-hyper.safetensors",
    ):
        assert file in inside
    assert not [name for name in inside if name.startswith(("tests/", "core/", "plugins/", "examples/"))]
    assert "obverse_signs/py.typed" in zipfile.ZipFile(wheels[1]).namelist()

    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python, obverse = fresh / "bin" / "python", fresh / "bin" / "obverse"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", *wheels, cwd=tmp_path)
    (site,) = fresh.glob("lib/python*/site-packages")
    # Dependencies come from this environment; what was installed above stands before them on the path.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    where = run(python, "-c", "import obverse, obverse_pocket; print(obverse.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    plugins = {row["name"]: row for row in json.loads(run(obverse, "plugins", "--json", cwd=tmp_path))}
    assert plugins["signs"]["distribution"] == "obverse-signs"
    assert all(row["error"] == "" for row in plugins.values())
    assert "pocket-signs" in run(obverse, "list", "--codecs", cwd=tmp_path)
    bundled = photo.with_name("bundled.obv")
    run(obverse, "compress", photo, bundled, cwd=tmp_path)
    run(obverse, "compress", "-m", "pocket-signs", photo, cwd=tmp_path)
    run(obverse, "decompress", photo.with_suffix(".obv"), "signs.png", cwd=tmp_path)
    assert pixels(tmp_path / "signs.png").shape == pixels(photo).shape
    run(python, "-m", "pytest", "-q", EXAMPLE / "tests", "-p", "no:cacheprovider", cwd=tmp_path)

    # The editable install of this environment writes and reads the same bytes.
    assert main(["compress", "-f", str(photo), str(photo.with_name("editable.obv"))]) == 0
    assert photo.with_name("editable.obv").read_bytes() == bundled.read_bytes()

    run(*pip, "uninstall", "-q", "-y", "obverse-signs", cwd=tmp_path)
    assert "signs" not in run(obverse, "list", cwd=tmp_path)
    assert "no installed codec" in run(obverse, "decompress", "-f", photo.with_suffix(".obv"), cwd=tmp_path, code=4)
    run(obverse, "decompress", bundled, cwd=tmp_path)
