"""What became of each of many inputs, in one file, whichever process and whichever run did it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from obverse.cli.jobs import Job, Outcome
from obverse.errors import ObverseError, OutputError
from obverse.files import check_output, make_folder, output_error, read_bytes, write_beside
from obverse.group import Group


class Manifest:
    """JSON lines in the order of the inputs: `input`, and what `--json` says of it.

    While inputs are done each process appends to a part of its own beside the file, so that a run that was killed
    leaves what it did; in the end the first process merges the parts.

    Args:
        path: of the file; its folder is made where it is missing.
        codec: name of the codec, for streams that are there and that no line tells of.
        force: overwrite the file.
    """

    def __init__(self, path: Path, codec: str, force: bool) -> None:
        self.path, self.codec, self.force = path, codec, force
        self._part = path

    def start(self, group: Group, resume: bool) -> None:
        """Make ready, before any process does anything.

        Raises:
            OutputExistsError: the file is there, and the run neither resumes one nor may overwrite it.
            OutputError: its folder cannot be made.
        """
        if not resume:
            check_output(self.path, self.force, new_folder=True)
        make_folder(self.path.absolute().parent)
        self._part = self.path.with_name(f"{self.path.name}.part-{group.rank}")
        if group.first and not resume:
            for old in (self.path, *self._parts()):
                old.unlink(missing_ok=True)
        group.wait()
        _end_line(self._part)

    def note(self, outcome: Outcome) -> None:
        """Keep what became of an input.

        Raises:
            OutputError: it cannot be written.
        """
        entry = outcome.result or {
            "input": outcome.job.source,
            "output": None,
            "error": outcome.message,
            "code": int(outcome.code),
        }
        try:
            with self._part.open("ab") as file:
                file.write(_line(entry))
        except OSError as error:
            raise output_error(str(self._part), error) from error

    def merge(self, jobs: Sequence[Job]) -> None:
        """Write the file from the parts of all processes, and of runs before, when all are done.

        Raises:
            OutputError: it cannot be written.
        """
        known: dict[str, dict[str, Any]] = {}
        for path in (self.path, *self._parts()):
            for entry in _entries(path):
                before = known.get(entry["input"])
                if before is None or "error" in before:
                    known[entry["input"]] = entry
        lines = [_line(self._entry(job, known.get(job.source))) for job in jobs]
        write_beside(self.path, b"".join(lines), force=True)
        for part in self._parts():
            part.unlink(missing_ok=True)

    def _entry(self, job: Job, known: dict[str, Any] | None) -> dict[str, Any]:
        """What is known of a job; of one that was killed between its stream and its line, what the stream tells."""
        if known is not None and ("error" not in known or not os.path.exists(job.target)):
            return known
        from obverse.container import CODERS, unpack

        entry: dict[str, Any] = {"input": job.source, "output": job.target}
        try:
            stream = unpack(read_bytes(job.target))
        except ObverseError as error:
            return entry | {"error": str(error)}
        header = stream.header
        return {
            "input": job.source, "width": header.width, "height": header.height, "codec": self.codec,
            "numerics": header.mode(), "output": job.target, "bytes": stream.size,
            "bpp": 8 * stream.size / (header.width * header.height), "quality": header.quality + 1,
            "coder": CODERS.get(header.coder),
        }  # fmt: skip

    def _parts(self) -> list[Path]:
        return sorted(self.path.absolute().parent.glob(f"{self.path.name}.part-*"))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are whole; the last of a process that was killed may not be."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(str(path), error) from error
    for line in lines:
        if not line.endswith(b"\n"):
            return
        try:
            entry = json.loads(line)
            entry["input"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{str(path)!r} is no manifest that can be gone on with: name another file") from error
        yield entry


def _end_line(path: Path) -> None:
    """Cut a line off that was not written to its end."""
    with suppress(FileNotFoundError):
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
