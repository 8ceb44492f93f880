"""Names of inputs and outputs, many files, folders, standard streams."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import toys
from PIL import Image

from obverse.cli import options
from obverse.cli.jobs import named_output
from obverse.images import IMAGE_SUFFIXES

TOY = ("-m", "toy")


def files() -> set[str]:
    """Files below the working directory."""
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


def draw(*names: str) -> None:
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.picture(20, 10 + seed, seed)).save(name)


@pytest.mark.parametrize(
    ("name", "stream", "picture"),
    [
        ("photo.png", "photo.obv", "photo.png"),
        ("a.b.jpg", "a.b.obv", "a.b.png"),
        ("UPPER.JPEG", "UPPER.obv", "UPPER.png"),
        ("sub/x.tif", "sub/x.obv", "sub/x.png"),
        ("k=v.png", "k=v.obv", "k=v.png"),
    ],
)
def test_default_names_lie_beside_the_input(obverse, name, stream, picture) -> None:
    draw(name)
    assert obverse("compress", name, *TOY).code == 0
    Path(name).unlink()
    done = obverse("decompress", stream)
    assert done.out == f"{stream} -> {picture}: 20x10, toy\n"
    assert files() == {stream, picture}


def test_one_line_per_file_on_stdout_and_nothing_else(obverse) -> None:
    draw("a.png", "b.png")
    done = obverse("compress", "a.png", "b.png", *TOY)
    sizes = [Path(name).stat().st_size for name in ("a.obv", "b.obv")]
    assert done.out == (
        f"a.png -> a.obv: {sizes[0]} bytes, {8 * sizes[0] / 200:.4f} bpp\n"
        f"b.png -> b.obv: {sizes[1]} bytes, {8 * sizes[1] / 220:.4f} bpp\n"
    )
    assert done.err == "2 done, 0 skipped, 0 failed\n"


def test_json_is_alone_on_stdout(obverse, photo) -> None:
    done = obverse("compress", photo, "gone.png", *TOY, "--json")
    (result,) = done.json["results"]
    size = Path("photo.obv").stat().st_size
    assert result.pop("seconds") >= 0
    assert result == {
        "input": "photo.png",
        "output": "photo.obv",
        "width": 50,
        "height": 40,
        "codec": "toy",
        "numerics": "exact",
        "bytes": size,
        "bpp": 8 * size / 2000,
        "quality": 1,
        "coder": "range",
        "verified": False,
    }
    assert [(f["input"], f["code"]) for f in done.json["failed"]] == [("gone.png", 1)]
    assert done.json["skipped"] == []
    done = obverse("decompress", "photo.obv", "x.png", "--json")
    assert [(r["output"], r["width"], r["height"]) for r in done.json["results"]] == [("x.png", 50, 40)]


@pytest.mark.parametrize("words", [["photo.png", "x.obv"], ["photo.png", "-o", "x.obv"], ["photo.png", "x.bin"]])
def test_input_output_form_of_compress(obverse, photo, words) -> None:
    assert obverse("compress", *words, *TOY).code == 0
    assert files() == {"photo.png", words[-1]}


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "x.webp", "x.tiff", "x.bmp", "x.ppm", "x.avif", "x"])
def test_input_output_form_of_decompress(obverse, stream, name) -> None:
    assert obverse("decompress", stream, name).code == 0
    with Image.open(name) as image:
        assert image.size == (50, 40)


def test_the_second_of_two_paths_is_not_always_an_output(folder) -> None:
    Path("there").touch()
    streams = frozenset({".obv"})
    for second, output in {
        "b.png": False,  # an input, even when it is missing
        "b.obv": True,
        "B.OBV": True,
        "-": True,
        "there": False,
        "not-there": True,
        "x.bin": True,
    }.items():
        split = named_output(["a.png", second], None, IMAGE_SUFFIXES, streams)
        assert split == ((["a.png"], second) if output else (["a.png", second], None)), second
    assert named_output(["a.png", "b.obv"], "c.obv", IMAGE_SUFFIXES, streams) == (["a.png", "b.obv"], "c.obv")


def test_existing_outputs_are_refused_unless_forced(obverse, photo) -> None:
    Path("photo.obv").write_bytes(b"mine")
    obverse("compress", photo, *TOY).failed(1, "photo.png: 'photo.obv' exists; use --force")
    assert Path("photo.obv").read_bytes() == b"mine"
    assert obverse("compress", photo, *TOY, "-f").code == 0
    obverse("decompress", "photo.obv").failed(1, "photo.obv: 'photo.png' exists; use --force")
    assert obverse("decompress", "photo.obv", "--force").code == 0


def test_a_missing_folder_is_refused_for_o_and_made_for_d(obverse, photo) -> None:
    obverse("compress", photo, "-o", "new/x.obv", *TOY).failed(1, "'new/x.obv'", "its folder does not exist")
    assert obverse("compress", photo, "-d", "new/er", *TOY).code == 0
    assert obverse("decompress", "new/er/photo.obv", "--output-directory", "back").code == 0
    assert files() == {"photo.png", "new/er/photo.obv", "back/photo.png"}


def test_a_file_in_the_place_of_a_folder(obverse, photo) -> None:
    obverse("compress", photo, "-d", photo, *TOY).failed(1, "cannot write 'photo.png'", "is in its place")
    obverse("compress", photo, "photo.png/x.obv", *TOY).failed(1, "cannot write 'photo.png/x.obv'", "not a folder")
    assert files() == {"photo.png"}


def test_an_existing_folder_as_output_is_filled(obverse, photo) -> None:
    Path("out").mkdir()
    assert obverse("compress", photo, "-o", "out", *TOY).code == 0
    assert files() == {"photo.png", "out/photo.obv"}


def test_folders_are_mirrored(obverse) -> None:
    draw("in/a.png", "in/sub/b.jpg", "in/sub/deeper/c.WEBP")
    Path("in/notes.txt").write_text("not an image")
    Path("in/.hidden").mkdir()
    assert obverse("compress", "in", "-d", "out", *TOY).code == 0
    assert {name for name in files() if name.startswith("out")} == {
        "out/a.obv",
        "out/sub/b.obv",
        "out/sub/deeper/c.obv",
    }
    assert obverse("decompress", "out", "-d", "back", "--format", "ppm").code == 0
    assert {name for name in files() if name.startswith("back")} == {
        "back/a.ppm",
        "back/sub/b.ppm",
        "back/sub/deeper/c.ppm",
    }
    assert obverse("compress", "in", *TOY).code == 0
    assert {"in/a.obv", "in/sub/b.obv", "in/sub/deeper/c.obv"} < files()


def test_links_to_folders_are_not_followed(obverse) -> None:
    draw("in/a.png")
    Path("in/loop").symlink_to(Path("in").absolute())
    Path("in/loop.png").symlink_to(Path("in").absolute())
    assert obverse("compress", "in", "-d", "out", *TOY).code == 0
    assert {name for name in files() if name.startswith("out")} == {"out/a.obv"}


def test_several_folders_and_files(obverse) -> None:
    draw("one/a.png", "two/b.png", "c.png")
    assert obverse("compress", "one", "two", "c.png", "-d", "out", *TOY).code == 0
    assert {name for name in files() if name.startswith("out")} == {"out/a.obv", "out/b.obv", "out/c.obv"}


def test_some_fail_and_the_rest_is_written(obverse) -> None:
    draw("in/a.png", "in/c.png")
    Path("in/b.png").write_bytes(b"not an image at all")
    done = obverse("compress", "in", *TOY)
    assert done.code == 6
    assert done.out.count("\n") == 2
    assert "obverse: 'in/b.png' cannot be read: not an image" in done.err
    assert done.err.endswith("2 done, 0 skipped, 1 failed\n")
    assert {"in/a.obv", "in/c.obv"} < files()


def test_resume_skips_what_is_done(obverse) -> None:
    draw("in/a.png", "in/b.png", "in/c.png")
    assert obverse("compress", "in/b.png", *TOY).code == 0
    before = Path("in/b.obv").stat().st_mtime_ns
    done = obverse("compress", "in", "--resume", "--json", *TOY)
    assert (done.code, done.err) == (0, "2 done, 1 skipped, 0 failed\n")
    assert done.json["skipped"] == ["in/b.png"]
    assert Path("in/b.obv").stat().st_mtime_ns == before
    done = obverse("compress", "in", "--resume", *TOY)
    assert (done.code, done.out, done.err) == (0, "", "0 done, 3 skipped, 0 failed\n")
    done = obverse("compress", "in/a.png", "--resume", *TOY)
    assert (done.code, done.out, done.err) == (0, "", "0 done, 1 skipped, 0 failed\n")


def test_standard_streams_carry_bytes_only(obverse, photo, stream) -> None:
    packed = obverse("compress", "-", *TOY, stdin=photo.read_bytes())
    assert packed.stdout == stream.read_bytes()
    assert packed.err == f"- -> -: {len(packed.stdout)} bytes, {8 * len(packed.stdout) / 2000:.4f} bpp\n"
    assert obverse("compress", photo, "-", *TOY).stdout == packed.stdout
    assert obverse("compress", "-", "-o", "x.obv", *TOY, stdin=photo.read_bytes()).stdout.startswith(b"- -> x.obv: ")
    assert Path("x.obv").read_bytes() == packed.stdout

    decoded = obverse("decompress", "-", stdin=packed.stdout)
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (50, 40))
    decoded = obverse("decompress", "x.obv", "-", "--format", "jpg", "--json")
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("JPEG", (50, 40))
    assert '"output": "-"' in decoded.err
    assert obverse("decompress", "-", "-d", "back", stdin=packed.stdout).code == 0
    assert "back/stdin.png" in files()


def test_errors_of_standard_input_name_it(obverse) -> None:
    obverse("compress", "-", *TOY, stdin=b"").failed(1, "standard input: ", "empty")
    obverse("decompress", "-", stdin=b"").failed(3, "standard input: ", "empty")
    obverse("decompress", "-", stdin=b"plain text").failed(3, "standard input: ", "not an Obverse stream")
    obverse("info", "-", stdin=b"plain text").failed(3, "standard input: ", "not an Obverse stream")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no input given"),
        ([""], "empty word"),
        (["a.png", "-o", ""], "empty word"),
        (["a.png", "-", "b.png"], "stands alone"),
        (["a.png", "b.png", "-o", "x.obv"], "'x.obv' is one file, the inputs are many; use --output-directory"),
        (["in", "-o", "x.obv"], "is one file, the inputs are many"),
        (["in", "x.obv"], "is one file, the inputs are many"),
        (["a.png", "-o", "x.obv", "-d", "out"], "exclude each other"),
        (["a.png", "in/a.png", "-d", "out"], "'a.png' and 'in/a.png' would both be written to 'out/a.obv'"),
        (["a.png", "./a.png"], "'a.png' and './a.png' would both be written to 'a.obv'"),
        (["a.png", "-o", "a.png", "-f"], "would overwrite the input 'a.png'"),
        (["x.obv"], "the output of 'x.obv' would overwrite the input 'x.obv'"),
        (["a.png", "--codec", "toy", "--config", "x.yaml"], "exclude each other"),
    ],
)
def test_words_that_contradict_each_other(obverse, words, message) -> None:
    draw("a.png", "in/a.png", "in/b.png")
    before = files()
    obverse("compress", *words, *(() if "--codec" in words else TOY)).failed(2, message)
    assert files() == before


def test_a_folder_without_inputs(obverse, photo) -> None:
    Path("empty").mkdir()
    obverse("compress", "empty", *TOY).failed(1, "no files ending in .avif, .bmp, .gif, ", "in empty")
    obverse("decompress", ".").failed(1, "no files ending in .obv in .")


def test_a_folder_that_cannot_be_read(obverse, monkeypatch) -> None:
    draw("in/a.png", "in/sub/b.png")
    listed = Path.iterdir

    def iterdir(self: Path):
        if self.name == "sub":
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    obverse("compress", "in", *TOY).failed(1, "folder 'in/sub' cannot be read: Permission denied")


@pytest.mark.parametrize("words", [["-o", "x.xyz"], ["--format", "xyz"], ["x.obv", "-o", "x.gif"]])
def test_formats_that_cannot_be_written_are_refused_at_once(obverse, words) -> None:
    obverse("decompress", "missing.obv", *words).failed(2, "cannot be written as", "formats: .png, .jpg")


def test_names_need_not_be_text(obverse) -> None:
    name = os.fsdecode(b"\xff.png")
    draw("a.png")
    os.rename("a.png", name)
    assert obverse("compress", name, "x.obv", "--json", *TOY).json["results"][0]["input"] == name


def test_names_that_are_too_long(obverse, photo) -> None:
    name = "n" * 300
    obverse("compress", f"{name}.png", "-o", "x.obv", *TOY).failed(1, "File name too long")
    obverse("compress", photo, f"{name}.obv", *TOY).failed(1, "the name is too long")
    obverse("compress", photo, "-d", name, *TOY).failed(1, "the name is too long")
    obverse("decompress", f"{name}.obv", "-o", "x.png").failed(1, "File name too long")


def test_a_full_device(obverse, photo, monkeypatch) -> None:
    assert Path("/dev/full").exists()
    obverse("compress", photo, "/dev/full", *TOY).failed(1, "cannot write '/dev/full': no space is left on the device")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("obverse.files.os.link", full)
    monkeypatch.setattr("obverse.files.os.replace", full)
    obverse("compress", photo, *TOY).failed(1, "cannot write 'photo.obv': no space is left on the device")
    assert files() == {"photo.png"}


def test_options_name_the_default_codec() -> None:
    assert options.default_config().name == options.DEFAULT_CODEC == "pocket-vq"


def test_a_progress_bar_is_for_terminals_and_leaves_results_alone(obverse, monkeypatch) -> None:
    draw("a.png", "b.png")
    plain = obverse("compress", "a.png", "b.png", "gone.png", *TOY)
    assert "\x1b" not in plain.err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    bar = obverse("compress", "a.png", "b.png", "gone.png", "-f", *TOY)
    assert (bar.code, bar.stdout) == (plain.code, plain.stdout)
    assert "\x1b" in bar.err
    assert "'gone.png' cannot be read" in bar.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # then lines have to make way for the bar
    both = obverse("compress", "a.png", "b.png", "-f", *TOY)
    assert plain.out.splitlines()[0] in both.err + both.out
