"""Streams written in the past decode today. tests/golden/README.md says how they were made."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import obverse
from obverse import container
from obverse.codec import from_header
from obverse.identity import find_config
from obverse.images import read_image
from obverse.pixels import psnr

HERE = Path(__file__).parents[1]
GOLDEN = HERE / "golden"
PHOTO = HERE.parent / "examples" / "images" / "brushes.jpg"
SYMBOLS = GOLDEN / "symbols.json"
CASES = [
    ("pocket-vq", "range", 1, "exact"),
    ("pocket-vq", "raw", 1, "exact"),
    ("pocket-vq", "range", 1, "guarded64"),
    ("pocket-hyper", "range", 1, "exact"),
    ("pocket-hyper", "range", 8, "exact"),
    ("pocket-hyper", "range", 4, "guarded64"),
]


def file_of(name: str, coder: str, quality: int, numerics: str) -> Path:
    return GOLDEN / f"{name}-{coder}-{quality}-{numerics}.obv"


def symbols_of(data: bytes) -> str:
    """SHA-256 of the decoded symbols, as little-endian 32-bit integers in coding order."""
    stream = container.unpack(data)
    coded, _ = from_header(stream.header, find_config(stream.header))._decode(stream)
    digest = hashlib.sha256()
    for part in coded:
        digest.update(part.symbols.numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def picture() -> np.ndarray:
    """The central 80x56 pixels of the photo."""
    pixels = read_image(PHOTO).pixels
    top, left = (pixels.shape[0] - 56) // 2, (pixels.shape[1] - 80) // 2
    return pixels[top : top + 56, left : left + 80].copy()


@pytest.fixture(scope="module", autouse=True)
def regenerated() -> None:
    """Write the files anew when OBVERSE_REGENERATE is 1."""
    if os.environ.get("OBVERSE_REGENERATE") != "1":
        return
    recorded = {}
    for name, coder, quality, numerics in CASES:
        stream = file_of(name, coder, quality, numerics)
        codec = obverse.load(name, parts={"coder": coder}, numerics=numerics)
        data = codec.compress(picture(), quality=quality, chunks={"name": name.encode()})
        stream.write_bytes(data)
        codec.decompress(data).save(stream.with_suffix(".png"))
        recorded[stream.name] = symbols_of(data)
    SYMBOLS.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("name", "coder", "quality", "numerics"), CASES, ids=lambda value: str(value))
def test_golden_stream_decodes(name: str, coder: str, quality: int, numerics: str) -> None:
    stream = file_of(name, coder, quality, numerics)
    data = stream.read_bytes()
    assert symbols_of(data) == json.loads(SYMBOLS.read_text(encoding="utf-8"))[stream.name]
    # Pixels may differ in the last bit between machines.
    assert psnr(np.asarray(obverse.decompress(data)), np.asarray(Image.open(stream.with_suffix(".png")))) > 50
    header = container.unpack(data).header
    assert (header.width, header.height, header.quality, header.mode()) == (80, 56, quality - 1, numerics)
    assert header.chunks["name"].decode() == name


SETTINGS = [
    {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=["baseline", "avx2"])
def test_golden_streams_decode_with_fewer_instructions(setting: dict[str, str]) -> None:
    program = (
        "import sys; from tests.core.test_golden import *; [symbols_of(Path(f).read_bytes()) for f in sys.argv[1:]]"
    )
    files = [str(file_of(*case)) for case in CASES]
    subprocess.run(
        [sys.executable, "-c", program, *files], env={**os.environ, **setting}, cwd=HERE.parent, check=True, timeout=300
    )
