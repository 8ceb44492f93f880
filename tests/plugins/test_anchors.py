"""Classical codecs as subjects of evaluations."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obverse.errors import ConfigError
from obverse.evaluation.interfaces import Subject
from obverse.evaluation.programs import ProgramError
from obverse.pixels import psnr
from obverse_anchors import ffmpeg
from obverse_anchors.anchor import Anchor
from obverse_anchors.bpg import Bpg
from obverse_anchors.ffmpeg import HevcIntra, VvcIntra, VvcIntraShort
from obverse_anchors.jpegxl import JpegXl
from obverse_anchors.pillow import Avif, Jpeg, Jpeg2000, WebP
from obverse_anchors.vtm import Vtm
from obverse_anchors.ycbcr import from_planes, to_planes
from obverse_registry import registry

KODAK = Path(os.environ.get("OBVERSE_KODAK", Path(__file__).parents[3] / "shared" / "data" / "kodak"))
HERE = (Jpeg, Jpeg2000, WebP, Avif, JpegXl, HevcIntra, VvcIntra, VvcIntraShort)
"""Anchors that libraries bring; the others need programs."""

STARTS = {
    "jpeg": b"\xff\xd8\xff",
    "jpeg2000": b"\xff\x4f\xff\x51",  # SOC and SIZ: a codestream without boxes
    "webp": b"RIFF",
    "jpegxl": b"\xff\x0a",
    "hevc-intra": b"\x00\x00\x00\x01\x40\x01",  # start code and video parameter set
    "vvc-intra": b"\x00\x00\x00\x01\x00",
    "vvc-intra.short": b"\x00\x00\x00\x01\x00",
}


def made(kind: type[Anchor], **options: Any) -> Anchor:
    anchor = kind(**options)
    if reason := anchor.missing():
        pytest.skip(reason)
    return anchor


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours with edges and some noise, of odd sides."""
    y, x = np.mgrid[:87, :121] / 87.0
    colours = np.stack([np.sin(5 * x), np.cos(4 * y * x), np.sin(9 * y)], axis=-1) * 90 + 128
    colours[20:50, 30:70] = (200, 60, 30)
    noise = np.random.default_rng(0).normal(0, 4, colours.shape)
    return np.clip(np.rint(colours + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", HERE)
def test_trips(kind: type[Anchor], picture: np.ndarray) -> None:
    anchor = made(kind)
    first = 7 if kind is Jpeg2000 else 0  # the highest ratios are below the smallest stream of a small picture
    chosen = (anchor.qualities[first], anchor.qualities[first // 2 + 6], anchor.qualities[-2])
    trips = [anchor.trip(picture, quality) for quality in chosen]
    assert all(trip.pixels.shape == picture.shape and trip.pixels.dtype == np.uint8 for trip in trips)
    sizes, distances = zip(*[(trip.file_bytes, psnr(picture, trip.pixels)) for trip in trips], strict=True)
    assert list(sizes) == sorted(set(sizes)), "qualities are to be worst first"
    assert list(distances) == sorted(set(distances))
    assert distances[-1] > 30
    assert all(trip.encoding_seconds > 0 and trip.decoding_seconds > 0 for trip in trips)
    assert all(trip.payload_bytes is None and trip.estimated_bits is None for trip in trips)


@pytest.mark.parametrize("kind", HERE)
def test_bytes_are_a_file_or_stream_of_the_format(kind: type[Anchor], picture: np.ndarray) -> None:
    anchor = made(kind)
    quality = anchor.qualities[len(anchor.qualities) // 2]
    data = anchor.encode(picture, quality)
    start = STARTS.get(anchor.name)
    assert data.startswith(start) if start else data[4:12] == b"ftypavif"
    trip = anchor.trip(picture, quality)
    assert trip.file_bytes == len(data)
    np.testing.assert_array_equal(trip.pixels, kind().decode(data, *picture.shape[:2]))


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 40)])
def test_small_pictures(kind: type[Anchor], shape: tuple[int, int]) -> None:
    anchor = made(kind)
    trip = anchor.trip(np.full((*shape, 3), 128, np.uint8), anchor.qualities[-1])
    assert np.abs(trip.pixels.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("kind", HERE)
def test_descriptions_and_fingerprints(kind: type[Anchor]) -> None:
    anchor = made(kind)
    told = anchor.describe()
    assert told.keys() >= {"implementation", "command", "chroma_format", "bit_depth", "colour_conversion", "licence"}
    assert any(character.isdigit() for character in told["implementation"]), "no version"
    assert "QP" in told["command"] or "quality" in told["command"]
    assert anchor.fingerprint == kind().fingerprint == kind(qualities=anchor.qualities[:2]).fingerprint


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Jpeg, {"chroma_format": "4:4:4"}),
        (WebP, {"method": 2}),
        (Avif, {"speed": 8}),
        (Avif, {"chroma_format": "4:4:4"}),
        (JpegXl, {"effort": 3}),
        (HevcIntra, {"preset": "ultrafast"}),
        (HevcIntra, {"chroma_format": "4:4:4"}),
        (VvcIntra, {"preset": "faster"}),
    ],
)
def test_options_change_bytes_and_fingerprint(kind: type[Anchor], options: dict[str, Any], picture: np.ndarray) -> None:
    anchor, other = made(kind), made(kind, **options)
    quality = anchor.qualities[len(anchor.qualities) // 2]
    assert anchor.fingerprint != other.fingerprint
    assert anchor.encode(picture, quality) != other.encode(picture, quality)
    assert psnr(picture, other.trip(picture, quality).pixels) > 20


def test_small_parameter_sets_save_bytes_and_change_little(picture: np.ndarray) -> None:
    long, short = (made(kind).trip(picture, 40) for kind in (VvcIntra, VvcIntraShort))
    assert 90 <= long.file_bytes - short.file_bytes <= 150
    assert abs(psnr(picture, long.pixels) - psnr(picture, short.pixels)) < 0.5


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Jpeg, {"qualities": [96]}, "jpeg: quality takes a whole number from 1 to 95, not 96"),
        (Jpeg, {"qualities": [5.5]}, "jpeg: quality takes a whole number"),
        (Jpeg, {"qualities": [True]}, "not True"),
        (Jpeg, {"qualities": ["5"]}, "not '5'"),
        (Jpeg, {"qualities": []}, "jpeg: at least one quality is needed"),
        (JpegXl, {"qualities": [26]}, "jpegxl: quality takes a number from 0.01 to 25, not 26"),
        (Jpeg, {"chroma_format": "4:2:2"}, "chroma_format takes 4:2:0 or 4:4:4, not '4:2:2'"),
        (WebP, {"method": 7}, "webp: method takes a whole number from 0 to 6, not 7"),
        (Avif, {"speed": 1.0}, "avif: speed takes a whole number from 0 to 10"),
        (HevcIntra, {"qualities": [52]}, "hevc-intra: quality takes a whole number from 0 to 51"),
        (HevcIntra, {"chroma_format": "4:0:0"}, "chroma_format takes"),
        (Bpg, {"bits": 7}, "bpg: bits takes a whole number from 8 to 12, not 7"),
        (Bpg, {"encoder": "x264"}, "bpg: encoder takes x265 or jctvc, not 'x264'"),
        (Bpg, {"qualities": [52]}, "bpg: a quality takes a whole number from 0 to 51, not 52"),
    ],
)
def test_bad_options(kind: type[Anchor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_qualities_between_the_default_ones() -> None:
    assert [JpegXl().parse_quality(text) for text in ("25", "4.5", "7")] == [25, 4.5, 7]
    assert isinstance(JpegXl().parse_quality("25"), int)
    assert Jpeg().parse_quality("33") == 33
    for text in ("best", "0", "5.5", "nan", "inf"):
        with pytest.raises(ConfigError, match="jpeg: quality takes a whole number from 1 to 95, not "):
            Jpeg().parse_quality(text)
    with pytest.raises(ConfigError, match="jpegxl: quality takes a number"):
        JpegXl().parse_quality("nan")


def test_registered_anchors() -> None:
    components = [c for c in registry().components("anchor") if c.plugin == "anchors"]
    assert {c.name for c in components} >= {"jpeg", "webp", "avif", "jpeg2000", "jpegxl", "hevc-intra", "vvc-intra"}
    for component in components:
        subject = component.load()()
        assert isinstance(subject, Subject)
        assert subject.name == component.name
        assert component.summary
        assert component.licence == getattr(subject, "licence", None) or component.name == "bpg"


# Colour conversion


@pytest.mark.parametrize(("colour", "expected"), [((255, 0, 0), (217, 395, 1023)), ((0, 0, 255), (74, 1023, 465))])
def test_primaries_in_ten_bits(colour: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    """By hand: 0.2126 * 1023 = 217.5 is below the half, -0.2126 / 1.8556 * 1023 + 512 = 394.8, 0.5 * 1023 + 512 is
    one more than there is."""
    planes = to_planes(np.full((2, 2, 3), colour, np.uint8), bits=10, chroma_format="4:2:0")
    assert [plane.shape for plane in planes] == [(2, 2), (1, 1), (1, 1)]
    assert tuple(int(plane[0, 0]) for plane in planes) == expected


def test_ten_bits_keep_every_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    back = from_planes(to_planes(pixels, bits=10, chroma_format="4:4:4"), bits=10)
    assert np.abs(back.astype(int) - pixels).max() <= 1
    assert psnr(pixels, back) > 58
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=-1)
    np.testing.assert_array_equal(from_planes(to_planes(grey, bits=10, chroma_format="4:4:4"), bits=10), grey)


def test_eight_bits_reach_what_rounding_allows() -> None:
    """53 dB; with truncation at both steps it is 43.7 dB."""
    pixels = np.random.default_rng(0).integers(16, 240, (256, 256, 3)).astype(np.uint8)
    assert psnr(pixels, from_planes(to_planes(pixels, bits=8, chroma_format="4:4:4"), bits=8)) == pytest.approx(
        53, abs=0.5
    )


def test_halved_chroma_is_not_shifted() -> None:
    """A ramp of colour comes back as it was, but for the borders."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0] = np.arange(32) * 7
    pixels[..., 1] = 90
    pixels[..., 2] = np.arange(32)[:, None] * 7
    back = from_planes(to_planes(pixels, bits=10, chroma_format="4:2:0"), bits=10)
    inside = slice(4, -4)
    assert np.abs(back.astype(int) - pixels)[inside, inside].max() <= 2


# Programs that are not there, and stand-ins for them


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "_programs", lambda: iter(()))
    message = "needs ffmpeg with libvvenc and the decoder vvc: put one on the PATH, or pip install imageio-ffmpeg"
    assert VvcIntra().missing() == f"vvc-intra {message}"
    with pytest.raises(ProgramError, match="hevc-intra needs ffmpeg with libx265"):
        HevcIntra().trip(np.zeros((16, 16, 3), np.uint8), 30)


def test_an_ffmpeg_without_the_encoder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poor = program(tmp_path / "poor", "print(' V....D libx264 H.264')")
    rich = program(tmp_path / "rich", "print(' V....D libx265 H.265\\n V....D hevc HEVC')")
    monkeypatch.setattr(ffmpeg, "_programs", lambda: iter([str(poor), str(rich)]))
    assert HevcIntra().program == str(rich)
    assert VvcIntra().missing() is not None


def test_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert JpegXl().missing() == "jpegxl needs the package imagecodecs: pip install imagecodecs"


def test_without_their_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VTM_HOME", raising=False)
    assert "program 'bpgenc' is not found" in str(Bpg().missing())
    assert "bellard.org" in str(Bpg().missing())
    assert "name its folder in VTM_HOME" in str(Vtm().missing())


def program(path: Path, source: str) -> Path:
    """An executable file in Python, which prints its words when asked for help."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{source}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


posix = pytest.mark.skipif(os.name != "posix", reason="stand-ins are scripts with a first line for POSIX")


@posix
def test_bpg_by_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray) -> None:
    program(
        tmp_path / "bpgenc",
        "import shutil, sys\n"
        "if sys.argv[1:] == ['-h']: print('BPG Image Encoder version 0.9.8'); sys.exit(1)\n"
        "assert sys.argv[1:11] == '-q 30 -f 444 -b 8 -e x265 -c ycbcr'.split() and sys.argv[11] == '-o', sys.argv\n"
        "shutil.copy(sys.argv[13], sys.argv[12])",
    )
    program(
        tmp_path / "bpgdec", "import shutil, sys; assert sys.argv[1] == '-o'; shutil.copy(sys.argv[3], sys.argv[2])"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    anchor = Bpg()
    assert anchor.missing() is None
    assert anchor.describe()["version"] == "BPG Image Encoder version 0.9.8"
    trip = anchor.trip(picture, 30)
    np.testing.assert_array_equal(trip.pixels, picture)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    assert trip.file_bytes == len(file.getvalue())


@posix
@pytest.mark.parametrize(("chroma_format", "limit"), [("4:4:4", 55), ("4:2:0", 25)])
def test_vtm_by_a_stand_in(tmp_path: Path, picture: np.ndarray, chroma_format: str, limit: float) -> None:
    """Its streams are the raw planes, so that only conversions of colours lose anything."""
    program(
        tmp_path / "bin" / "EncoderAppStatic",
        "import shutil, sys\n"
        "words = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "if '--help' in sys.argv: print('VVCSoftware: VTM Encoder Version 23.1'); sys.exit(1)\n"
        f"width, height = {(121, 87) if chroma_format == '4:4:4' else (122, 88)}\n"
        "assert (words['-wdt'], words['-hgt'], words['-q'], words['-f']) == (str(width), str(height), '37', '1')\n"
        f"assert '--InputChromaFormat={chroma_format.replace(':', '')}' in sys.argv\n"
        "assert '--InputBitDepth=10' in sys.argv\n"
        "open(words['-c'])\n"
        "shutil.copy(words['-i'], words['-b'])",
    )
    program(
        tmp_path / "bin" / "DecoderAppStatic",
        "import shutil, sys; assert sys.argv[1::2] == ['-b', '-o', '-d']; shutil.copy(sys.argv[2], sys.argv[4])",
    )
    assert "configuration" in str(Vtm(home=str(tmp_path)).missing())
    config = tmp_path / "cfg" / "encoder_intra_vtm.cfg"
    config.parent.mkdir()
    config.write_text("IntraPeriod : 1\n", encoding="utf-8")
    anchor = Vtm(home=str(tmp_path), chroma_format=chroma_format)
    assert anchor.missing() is None
    assert anchor.describe()["implementation"] == "VVCSoftware: VTM Encoder Version 23.1"
    assert str(tmp_path) not in anchor.describe()["command"]
    trip = anchor.trip(picture, 37)
    assert psnr(picture, trip.pixels) > limit
    samples = 121 * 87 * 3 if chroma_format == "4:4:4" else 122 * 88 * 3 // 2
    assert trip.file_bytes == 2 * samples
    before = anchor.fingerprint
    config.write_text("IntraPeriod : 2\n", encoding="utf-8")
    assert Vtm(home=str(tmp_path), chroma_format=chroma_format).fingerprint != before


@posix
def test_a_decoder_that_writes_too_little(tmp_path: Path, picture: np.ndarray) -> None:
    copy = "import shutil, sys; shutil.copy(sys.argv[4], sys.argv[6])"
    encoder = program(tmp_path / "encoder", copy)
    decoder = program(tmp_path / "decoder", "import sys; open(sys.argv[4], 'wb').write(b'1234')")
    anchor = Vtm(encoder=str(encoder), decoder=str(decoder), config=str(encoder))
    with pytest.raises(ProgramError, match=f"vtm: the decoder wrote 2 samples in place of {picture.size}"):
        anchor.trip(picture, 37)
    program(encoder, "pass")
    with pytest.raises(ProgramError, match="vtm: the encoder wrote no stream"):
        anchor.trip(picture, 37)


# Numbers measured before, with other code, on the central 512x512 of Kodak


def kodak(count: int) -> list[np.ndarray]:
    files = sorted(KODAK.glob("kodim*.png"))[:count]
    if len(files) < count:
        pytest.skip(f"no Kodak images in {KODAK}; set OBVERSE_KODAK")
    crops = []
    for file in files:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
        top, left = (pixels.shape[0] - 512) // 2, (pixels.shape[1] - 512) // 2
        crops.append(pixels[top : top + 512, left : left + 512])
    return crops


@pytest.mark.parametrize(
    ("kind", "quality", "bpp", "distance"),
    [
        pytest.param(Jpeg, 5, 0.1654, 23.69, id="jpeg"),
        pytest.param(WebP, 1, 0.1651, 26.82, id="webp", marks=pytest.mark.slow),
        pytest.param(Jpeg2000, 120, 0.1987, 28.03, id="jpeg2000", marks=pytest.mark.slow),
        pytest.param(Avif, 10, 0.1132, 26.91, id="avif", marks=pytest.mark.slow),
        pytest.param(JpegXl, 8, 0.3456, 28.94, id="jpegxl", marks=pytest.mark.slow),
        pytest.param(HevcIntra, 45, 0.0840, 26.17, id="hevc-intra", marks=pytest.mark.slow),
        pytest.param(VvcIntra, 53, 0.0345, 24.35, id="vvc-intra", marks=pytest.mark.slow),
    ],
)
def test_known_numbers(kind: type[Anchor], quality: float, bpp: float, distance: float) -> None:
    """The tolerance, one percent and 0.03 dB, is for other versions of the libraries."""
    anchor = made(kind)
    crops = kodak(24)
    trips = [anchor.trip(crop, quality) for crop in crops]
    assert np.mean([8 * trip.file_bytes / 512**2 for trip in trips]) == pytest.approx(bpp, rel=0.01)
    measured = np.mean([psnr(crop, trip.pixels) for crop, trip in zip(crops, trips, strict=True)])
    assert measured == pytest.approx(distance, abs=0.03)
