"""Codecs that are other programs, described in YAML. The programs here are small ones in Python."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from obverse.errors import ConfigError
from obverse.evaluation.command import KEYS, CommandAnchor, is_command_file, load_command
from obverse.evaluation.programs import ProgramError, run_program

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "anchors").glob("*.yaml"))

# Drops the low bits of every sample, as many as the quality says, and deflates the rest.
ENCODE = """
import sys, zlib
import numpy as np
from PIL import Image
source, target, bits = sys.argv[1:]
pixels = np.asarray(Image.open(source)) >> int(bits) << int(bits)
height, width = pixels.shape[:2]
open(target, "wb").write(height.to_bytes(2, "big") + width.to_bytes(2, "big") + zlib.compress(pixels.tobytes()))
"""
DECODE = """
import os, sys, zlib
import numpy as np
from PIL import Image
source, target = sys.argv[1:]
assert os.listdir(os.path.dirname(source)) == [os.path.basename(source)], "the decoder sees more than the bitstream"
data = open(source, "rb").read()
shape = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big"), 3
Image.fromarray(np.frombuffer(zlib.decompress(data[4:]), np.uint8).reshape(shape)).save(target)
"""


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """A working description, in a folder whose name has a space."""
    folder = tmp_path / "two words"
    folder.mkdir()
    (folder / "encode.py").write_text(ENCODE, encoding="utf-8")
    (folder / "decode.py").write_text(DECODE, encoding="utf-8")
    python = shlex.quote(sys.executable)
    return {
        "name": "deflate",
        "encode": f"{python} encode.py {{input}} {{bitstream}} {{quality}}",
        "decode": f"{python} decode.py {{bitstream}} {{output}}",
        "version": f"{python} -c \"print(); print('deflate 1.2'); exit(3)\"",
        "directory": str(folder),
        "qualities": [6, 2, 0],
    }


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 21, 3)).astype(np.uint8)


def written(tmp_path: Path, body: Any) -> Path:
    path = tmp_path / "deflate.yaml"
    path.write_text(yaml.safe_dump({"anchor": body}), encoding="utf-8")
    return path


def test_an_image_makes_the_trip_through_both_programs(
    tmp_path: Path, body: dict[str, Any], pixels: np.ndarray
) -> None:
    anchor = load_command(written(tmp_path, body))
    assert anchor.missing() is None
    assert anchor.qualities == [6, 2, 0]
    sizes = []
    for bits in anchor.qualities:
        trip = anchor.trip(pixels, bits)
        np.testing.assert_array_equal(trip.pixels, pixels >> bits << bits)
        assert trip.encoding_seconds > 0
        assert trip.decoding_seconds > 0
        sizes.append(trip.file_bytes)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 + pixels.size  # random samples, which do not deflate


def test_it_tells_commands_and_version(tmp_path: Path, body: dict[str, Any]) -> None:
    told = load_command(written(tmp_path, body)).describe()
    assert told["version"] == "deflate 1.2"
    assert told["encode"] == body["encode"]


@pytest.mark.parametrize("key", ["encode", "version", "bitstream_suffix"])
def test_the_fingerprint_is_that_of_commands_and_version(tmp_path: Path, body: dict[str, Any], key: str) -> None:
    before = load_command(written(tmp_path, body)).fingerprint
    assert load_command(written(tmp_path, body | {"notes": "more"})).fingerprint == before
    other = {"encode": body["encode"] + " --more", "version": "echo 1.3", "bitstream_suffix": ".z"}
    assert load_command(written(tmp_path, body | {key: other[key]})).fingerprint != before


def test_a_relative_directory_is_relative_to_the_file(tmp_path: Path, body: dict[str, Any]) -> None:
    assert load_command(written(tmp_path, body | {"directory": "two words"})).directory == tmp_path / "two words"


def test_environment_variables(
    tmp_path: Path, body: dict[str, Any], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, body | {"directory": "$DEFLATE_HOME"})
    monkeypatch.delenv("DEFLATE_HOME", raising=False)
    assert "environment variable $DEFLATE_HOME of its directory is not set" in str(load_command(path).missing())
    monkeypatch.setenv("DEFLATE_HOME", body["directory"])
    before = load_command(path)
    assert before.missing() is None
    assert before.trip(pixels, 0).file_bytes > 0
    argument = written(tmp_path, body | {"encode": body["encode"] + " $NOT_THERE"})
    assert load_command(argument).missing() == "deflate: environment variable $NOT_THERE is not set"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directory": "nowhere"}, r"deflate: directory '.*nowhere' does not exist"),
        ({"encode": "no-such-program {input} {bitstream} {quality}"}, "program 'no-such-program' is not found"),
        ({"decode": "./no/program {bitstream} {output}"}, r"program '\./no/program' is not found"),
    ],
)
def test_what_is_missing_is_told_without_running(
    tmp_path: Path, body: dict[str, Any], change: dict[str, str], message: str
) -> None:
    reason = load_command(written(tmp_path, body | change)).missing()
    assert reason is not None
    assert re.search(message, reason)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encod": "x"}, r"unknown key 'encod' did you mean 'encode'\?"),
        ({"encode": None}, r"missing \['encode'\]"),
        ({"encode": 3}, "encode takes text, not 3"),
        ({"encode": "a {input}"}, r"encode: the command lacks \{bitstream\}"),
        ({"decode": "a {bitstream}"}, r"decode: the command lacks \{output\}"),
        ({"decode": "a {bitstream} {input} {output}"}, "decode, placeholders: unknown key 'input'"),
        ({"encode": "a {inptu} {bitstream}"}, r"unknown key 'inptu' did you mean 'input'\?"),
        ({"encode": "a '{input} {bitstream}"}, "encode cannot be split into words: No closing quotation"),
        ({"encode": "a {input} {bitstream}"}, r"there are 3 qualities, and no command has \{quality\}"),
        ({"qualities": []}, "qualities takes a list"),
        ({"qualities": 3}, "qualities takes a list"),
        ({"qualities": [1, 2, 1]}, "a quality is there twice"),
        ({"timeout": "long"}, "timeout takes seconds, not 'long'"),
        ({"timeout": 0}, "timeout takes seconds, not 0"),
        ({"output_suffix": "png"}, "a suffix looks like '.png', not 'png'"),
    ],
)
def test_bad_descriptions(tmp_path: Path, body: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_command(written(tmp_path, body | change))


def test_a_file_of_something_else(tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "codec.yaml"
    path.write_text("name: pocket\nprior: uniform\n", encoding="utf-8")
    assert not is_command_file(path)
    with pytest.raises(ConfigError, match="expected the key 'anchor'"):
        load_command(path)
    assert not is_command_file(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"absent\.yaml' cannot be read: No such file"):
        load_command(tmp_path / "absent.yaml")
    path.write_bytes(b"a: [\xff")
    assert not is_command_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_command(path)
    assert is_command_file(written(tmp_path, body))
    path.write_text("anchor: {}\nquality: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key 'quality'"):
        load_command(path)


def python(program: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


@pytest.mark.parametrize(
    ("step", "program", "message"),
    [
        (
            "encode",
            "import sys; print('loading'); sys.exit('no memory left\\n\\n')",
            "deflate at quality 2, encode: .* failed with exit code 1: no memory left$",
        ),
        ("encode", "import sys; sys.exit(9)", "failed with exit code 9 and said nothing$"),
        ("encode", "pass", "encode ended well, but wrote nothing to its .bin file"),
        ("decode", "pass", "decode ended well, but wrote nothing to its .png file"),
        ("decode", "import sys; open(sys.argv[2], 'w').write('text')", "what decode wrote is no image"),
        (
            "decode",
            "import sys; from PIL import Image; Image.new('RGB', (8, 4)).save(sys.argv[2])",
            "an image of 21x13 came back as 8x4",
        ),
    ],
)
def test_programs_that_fail(
    tmp_path: Path, body: dict[str, Any], pixels: np.ndarray, step: str, program: str, message: str
) -> None:
    words = {"encode": " {input} {bitstream} {quality}", "decode": " {bitstream} {output}"}
    anchor = load_command(written(tmp_path, body | {step: python(program) + words[step]}))
    with pytest.raises(ProgramError, match=message) as caught:
        anchor.trip(pixels, 2)
    assert "\n" not in str(caught.value)


def test_a_program_that_takes_too_long_is_killed_with_its_children(
    tmp_path: Path, body: dict[str, Any], pixels: np.ndarray
) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(1.5); open({str(mark)!r}, 'w').close()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    slow = {"encode": python(parent) + " {input} {bitstream} {quality}", "timeout": 0.7}
    with pytest.raises(ProgramError, match=r"was stopped after 0\.7 seconds without an end"):
        load_command(written(tmp_path, body | slow)).trip(pixels, 2)
    time.sleep(1.5)
    assert not mark.exists()


def test_no_shell_sees_the_words() -> None:
    assert run_program([sys.executable, "-c", "import sys; print(sys.argv[1])", "$(id); `id`"], timeout=60) == (
        "$(id); `id`\n"
    )


def test_a_version_command_that_says_nothing() -> None:
    anchor = CommandAnchor(
        name="silent", encode="a {input} {bitstream}", decode="a {bitstream} {output}", qualities=[1],
        version=python("pass"),
    )  # fmt: skip
    with pytest.raises(ProgramError, match=r"silent: the version command .* says nothing"):
        _ = anchor.fingerprint


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("JPEG_AI_HOME", "JPEG_AI_PYTHON", "PERCO_HOME", "PERCO_PYTHON", "COOL_CHIC_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert is_command_file(path)
    anchor = load_command(path)
    assert anchor.name == path.stem
    assert "is not set" in str(anchor.missing())


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"jpeg-ai", "perco-sd", "cool-chic"}


def test_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "anchors.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "shown.yaml").write_text(snippet, encoding="utf-8")
    assert load_command(tmp_path / "shown.yaml").name == "cwebp"
    assert [key for key in KEYS if f"`{key}`" not in page] == []
