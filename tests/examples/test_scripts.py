"""Every example script runs, and is short."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from obverse_registry import registry

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# What each prints and leaves in its folder, given a picture of 64x64 pixels.
EXPECTED = {
    "compress_decompress": ("bits per pixel", ["compressed.obv", "decompressed.png"]),
    "custom_part": ("counting: ", []),
    "generate": ("generated-1.0-1.png", [f"generated-{t}-{i}.png" for t in (0.7, 1.0) for i in (0, 1)]),
    "hyperprior_from_image": ("hyperprior-1.0.png", ["hyperprior-0.0.png", "hyperprior-1.0.png"]),
    "inpaint": ("inpainted.png", ["inpainted.png"]),
    "rate": ("with its prior", []),
    "swap_prior": ("uniform prior", ["uniform.png"]),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    with Image.open(ROOT / "examples" / "images" / "brushes.jpg") as image:
        image.crop((300, 200, 364, 264)).save(photo)
    usage = (script.read_text(encoding="utf-8").split(script.name, 1)[1]).split('"""')[0]
    values = {"[IMAGE]": str(photo), "[FOLDER]": str(out), "[SIDE]": "32"}
    monkeypatch.setattr(sys, "argv", [str(script), *(values[word] for word in usage.split())])
    before = {plugin.name for plugin in registry().plugins()}
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        for name in {plugin.name for plugin in registry().plugins()} - before:
            registry().remove(name)
    printed, left = EXPECTED[script.stem]
    assert printed in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("*")) == sorted(left)


def test_every_script_is_expected() -> None:
    assert {script.stem for script in SCRIPTS} == set(EXPECTED)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_is_short_and_says_how_to_run_it(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert f"python examples/{script.name}" in text
