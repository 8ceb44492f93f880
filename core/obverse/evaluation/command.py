"""Codecs that are other people's programs, described in a YAML file: how to encode, how to decode.

image --PNG--> encode command --> bitstream --alone, in another folder--> decode command --> image file
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.config import unknown_keys
from obverse.errors import ConfigError, ObverseError
from obverse.evaluation.interfaces import Subject, Trip
from obverse.evaluation.programs import ProgramError, find_program, first_line, run_program

if TYPE_CHECKING:
    import numpy as np

KEY = "anchor"
"""The only key of such a file; its value has `KEYS`."""

REQUIRED = ("name", "encode", "decode", "qualities")
KEYS = (
    *REQUIRED, "version", "directory", "input_suffix", "bitstream_suffix", "output_suffix", "timeout", "licence",
    "notes",
)  # fmt: skip

PLACEHOLDERS = {
    "encode": ("input", "bitstream", "quality", "folder"),
    "decode": ("bitstream", "output", "quality", "folder"),
}
NEEDED = {"encode": ("input", "bitstream"), "decode": ("bitstream", "output")}

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")


class CommandAnchor(Subject):
    """A codec made of two commands.

    Commands are split into words as a shell would, and run without one. `$NAME` is the environment variable.
    `{input}` and `{output}` are image files, `{bitstream}` the file between them, `{quality}` the setting, `{folder}`
    a temporary folder for whatever else a program writes. Both see absolute paths.

    Args:
        name: as in results.
        encode: command with `{input}` and `{bitstream}`.
        decode: command with `{bitstream}` and `{output}`; it finds the bitstream alone in a new folder.
        qualities: settings, worst first.
        version: command whose first line of output tells the version, whatever its exit code; part of the fingerprint.
        directory: where all of them run; by default the current directory.
        input_suffix: PNG, PPM, BMP or TIFF.
        bitstream_suffix: what the programs expect.
        output_suffix: an image file that `obverse.images.read_image` reads.
        timeout: seconds that each command may take.
        licence: of the programs and their weights.
        notes: for the result file.

    Raises:
        ConfigError: a value or a placeholder that does not fit.
    """

    def __init__(
        self,
        *,
        name: str,
        encode: str,
        decode: str,
        qualities: Sequence[int | float | str],
        version: str | None = None,
        directory: str | None = None,
        input_suffix: str = ".png",
        bitstream_suffix: str = ".bin",
        output_suffix: str = ".png",
        timeout: float = 3600.0,
        licence: str | None = None,
        notes: str | None = None,
    ) -> None:
        self.name = name
        self.commands = {"encode": encode, "decode": decode}
        self.qualities = _checked_qualities(name, qualities)
        self.version_command = version
        self.directory = None if directory is None else Path(os.path.expandvars(directory)).expanduser()
        self.input_suffix, self.bitstream_suffix, self.output_suffix = input_suffix, bitstream_suffix, output_suffix
        self.timeout = timeout
        self.licence = licence
        self.notes = notes
        for suffix in (input_suffix, bitstream_suffix, output_suffix):
            if not re.fullmatch(r"\.[\w.]*\w", suffix):
                raise ConfigError(f"{name}: a suffix looks like '.png', not {suffix!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigError(f"{name}: timeout takes seconds, not {timeout!r}")
        self._words = {step: self._split(step, command) for step, command in self.commands.items()}
        for step, words in self._words.items():
            _check_placeholders(f"{name}: {step}", words, PLACEHOLDERS[step], NEEDED[step])
        if len(self.qualities) > 1 and not any("{quality}" in word for words in self._words.values() for word in words):
            raise ConfigError(f"{name}: there are {len(self.qualities)} qualities, and no command has {{quality}}")
        self._version_words = None if version is None else self._split("version", version)

    def missing(self) -> str | None:
        """An environment variable, the directory or a program that is not there."""
        if self.directory is not None:
            if unset := _VARIABLE.search(str(self.directory)):
                return f"{self.name}: environment variable {unset[0]} of its directory is not set"
            if not self.directory.is_dir():
                return f"{self.name}: directory {str(self.directory)!r} does not exist"
        for words in (*self._words.values(), self._version_words or ()):
            if unset := next(filter(None, map(_VARIABLE.search, words)), None):
                return f"{self.name}: environment variable {unset[0]} is not set"
            # A program that depends on the quality is looked for when it runs.
            if words and not _PLACEHOLDER.search(words[0]) and find_program(words[0], self.directory) is None:
                return f"{self.name}: program {words[0]!r} is not found; install it or put it on the PATH"
        return None

    @cached_property
    def version(self) -> str | None:
        """What the version command says first.

        Raises:
            ProgramError: it cannot be run, or says nothing.
        """
        if self._version_words is None:
            return None
        said = first_line(run_program(self._version_words, timeout=60, directory=self.directory, check=False))
        if not said:
            raise ProgramError(f"{self.name}: the version command {shlex.join(self._version_words)!r} says nothing")
        return said

    @property
    def fingerprint(self) -> str:
        """Of commands and version, not of where they lie."""
        told = {key: self.describe()[key] for key in ("encode", "decode", "version", "files")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> Mapping[str, Any]:
        """Commands as they are in the file, and what the version command says."""
        return {
            "kind": "command",
            **self.commands,
            "version": self.version,
            "files": f"{self.input_suffix} to {self.bitstream_suffix} to {self.output_suffix}",
            "times": "of whole commands: start and loading of networks included",
            "licence": self.licence,
            "notes": self.notes,
        }

    def trip(self, pixels: np.ndarray, quality: Any) -> Trip:
        """Run both commands.

        Raises:
            ProgramError: one fails, takes too long, or writes no bitstream or an image of another size.
        """
        from obverse.images import read_image, write_image

        with tempfile.TemporaryDirectory(prefix="obverse-") as first:
            source, stream = Path(first) / f"image{self.input_suffix}", Path(first) / f"image{self.bitstream_suffix}"
            write_image(source, pixels)
            encoding = self._run("encode", quality, input=source, bitstream=stream, folder=first)
            data = _written(self.name, "encode", stream).read_bytes()
        # The decoder gets the bitstream and nothing else that the encoder left behind.
        with tempfile.TemporaryDirectory(prefix="obverse-") as second:
            stream, target = Path(second) / f"image{self.bitstream_suffix}", Path(second) / f"out{self.output_suffix}"
            stream.write_bytes(data)
            decoding = self._run("decode", quality, bitstream=stream, output=target, folder=second)
            try:
                decoded = read_image(_written(self.name, "decode", target)).pixels
            except ObverseError as error:
                raise ProgramError(f"{self.name}: what decode wrote is no image that can be read: {error}") from error
        check_size(self.name, pixels, decoded)
        return Trip(pixels=decoded, file_bytes=len(data), encoding_seconds=encoding, decoding_seconds=decoding)

    def _split(self, step: str, command: str) -> list[str]:
        try:
            words = [os.path.expandvars(word) for word in shlex.split(command)]
        except ValueError as error:
            raise ConfigError(f"{self.name}: {step} cannot be split into words: {error}") from error
        if not words:
            raise ConfigError(f"{self.name}: {step} is empty")
        return words

    def _run(self, step: str, quality: Any, **values: Path | str) -> float:
        """Seconds that a command took."""
        known = {key: str(value) for key, value in {**values, "quality": quality}.items()}
        words = [_PLACEHOLDER.sub(lambda match: known[match[1]], word) for word in self._words[step]]
        begin = time.perf_counter()
        try:
            run_program(words, timeout=self.timeout, directory=self.directory)
        except ProgramError as error:
            raise ProgramError(f"{self.name} at quality {quality}, {step}: {error}") from error
        return time.perf_counter() - begin


def is_command_file(path: str | Path) -> bool:
    """Whether a file is YAML with the key `anchor` at its top. What cannot be read is not."""
    if not str(path).endswith((".yaml", ".yml")):
        return False
    try:
        body = _read(Path(path))
    except ConfigError:
        return False
    return isinstance(body, dict) and KEY in body


def load_command(path: str | Path) -> CommandAnchor:
    """The codec that a file describes. A relative directory in it is relative to the file.

    Raises:
        ConfigError: not such a file, a key that does not exist or is missing, or a wrong value.
    """
    path = Path(path)
    body = _read(path)
    if not isinstance(body, dict) or not isinstance(body.get(KEY), dict):
        raise ConfigError(f"{str(path)!r} describes no codec by commands: expected the key {KEY!r} with {list(KEYS)}")
    if others := [str(key) for key in body if key != KEY]:
        raise unknown_keys(others, (KEY,), str(path))
    told = body[KEY]
    if unknown := [str(key) for key in told if key not in KEYS]:
        raise unknown_keys(unknown, KEYS, f"{path}, {KEY}")
    if missing := [key for key in REQUIRED if told.get(key) is None]:
        raise ConfigError(f"{path}, {KEY}: missing {missing}")
    texts = {key: value for key, value in told.items() if key not in ("qualities", "timeout") and value is not None}
    if wrong := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise ConfigError(f"{path}, {KEY}: {wrong[0]} takes text, not {texts[wrong[0]]!r}")
    if "directory" in texts:
        expanded = os.path.expandvars(texts["directory"])
        # A variable that is not set is told by `missing`, not taken for a relative path.
        texts["directory"] = expanded if _VARIABLE.search(expanded) else str(path.parent / Path(expanded).expanduser())
    timeout = {} if told.get("timeout") is None else {"timeout": told["timeout"]}
    return CommandAnchor(qualities=told["qualities"], **timeout, **texts)


def check_size(name: str, image: np.ndarray, decoded: np.ndarray) -> None:
    """Refuse a decoded image of another size.

    Raises:
        ProgramError: with both sizes.
    """
    if decoded.shape != image.shape:
        (height, width), (got_height, got_width) = image.shape[:2], decoded.shape[:2]
        raise ProgramError(
            f"{name}: an image of {width}x{height} came back as {got_width}x{got_height}; "
            "give it images of the size that it codes"
        )


def _read(path: Path) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        reason = error.strerror or str(error)
    except (UnicodeDecodeError, OmegaConfBaseException, YAMLError) as error:
        reason = " ".join(str(error).split())
    raise ConfigError(f"{str(path)!r} cannot be read: {reason}")


def _checked_qualities(name: str, qualities: Any) -> list[int | float | str]:
    fine = isinstance(qualities, Sequence) and not isinstance(qualities, str) and len(qualities) > 0
    if not fine or any(isinstance(q, bool) or not isinstance(q, int | float | str) for q in qualities):
        raise ConfigError(f"{name}: qualities takes a list of numbers or words, worst first, not {qualities!r}")
    if len(set(qualities)) < len(qualities):
        raise ConfigError(f"{name}: a quality is there twice: {list(qualities)}")
    return list(qualities)


def _check_placeholders(where: str, words: Sequence[str], valid: Sequence[str], needed: Sequence[str]) -> None:
    found = [match for word in words for match in _PLACEHOLDER.findall(word)]
    if unknown := [match for match in found if match not in valid]:
        raise unknown_keys(unknown, valid, f"{where}, placeholders")
    if missing := [f"{{{key}}}" for key in needed if key not in found]:
        raise ConfigError(f"{where}: the command lacks {' and '.join(missing)}")


def _written(name: str, step: str, file: Path) -> Path:
    if not file.is_file() or file.stat().st_size == 0:
        raise ProgramError(f"{name}: {step} ended well, but wrote nothing to its {file.suffix} file")
    return file
