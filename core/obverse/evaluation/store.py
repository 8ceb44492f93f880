"""What was measured, on disk while it is measured: one file of JSON lines per process, features and pictures beside it.

Lines are only ever appended, so a run that was killed loses at most the sample that it was at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from obverse.errors import OutputError
from obverse.evaluation.interfaces import Sample
from obverse.files import make_folder, output_error, write_beside


@dataclass(frozen=True)
class Record:
    """A sample with every value that was ever measured for it.

    Attributes:
        sample: its `metrics` are empty.
        values: by the metric's name and identity, which changes with its version and options.
    """

    sample: Sample
    values: Mapping[tuple[str, str], float | None]

    def joined(self, other: Record) -> Record:
        """With the values, and the picture, of a later record of the same sample."""
        picture = self.sample.picture or other.sample.picture
        return Record(replace(self.sample, picture=picture), {**self.values, **other.values})


class Store:
    """The records of a results folder.

    Args:
        folder: the results folder, made where it is missing.
        rank: of this process, which alone appends to its file.

    Raises:
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self._parts = folder, folder / "parts"
        make_folder(self._parts)
        self._path = self._parts / f"samples-{rank}.jsonl"
        self._mend()
        self._records: dict[str, dict[str, Record]] = {}
        self.reload()

    def reload(self) -> None:
        """Read what all processes have written by now."""
        self._records = {}
        for path in sorted(self._parts.glob("samples-*.jsonl")):
            for record in _read(path):
                self._note(record)

    def find(self, key: str, filename: str) -> Record | None:
        """The record of an image under a key; where only another image has the same pixels, that one's in its name."""
        named = self._records.get(key)
        if not named:
            return None
        if filename not in named:
            other = next(iter(named.values()))
            return replace(other, sample=replace(other.sample, filename=filename, picture=None))
        return named[filename]

    def append(self, record: Record) -> None:
        """Keep a record, in memory and on disk."""
        values = [[name, identity, value] for (name, identity), value in record.values.items()]
        line = json.dumps({"sample": asdict(record.sample), "values": values}, ensure_ascii=True) + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, line.encode())  # in one piece
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(str(self._path), error) from error
        self._note(record)

    def features_path(self, metric: str, identity: str, place: str, key: str) -> Path:
        """Where the features of a picture are kept; `place` is `CODEC/QUALITY` or `reference`."""
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return self.folder / "features" / metric / place / f"{key[:32]}-{digest[:8]}.npz"

    def counts_path(self, place: str, key: str) -> Path:
        """Where the counts of a picture's tokens are kept; `place` is `CODEC/QUALITY`."""
        return self.folder / "tokens" / place / f"{key[:32]}.npz"

    def picture_name(self, place: str, filename: str) -> str:
        """Path, relative to the results folder, of a picture; `place` as for `features_path`."""
        return f"pictures/{place}/{filename}.png"

    def _note(self, record: Record) -> None:
        named = self._records.setdefault(record.sample.key, {})
        before = named.get(record.sample.filename)
        named[record.sample.filename] = before.joined(record) if before else record

    def _mend(self) -> None:
        """Cut a line off that was not written to its end."""
        try:
            with self._path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise output_error(str(self._path), error) from error


def _read(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # being written, or never finished
            try:
                body: dict[str, Any] = json.loads(line)
                values = {(name, identity): value for name, identity, value in body["values"]}
                yield Record(Sample(**body["sample"]), values)
            except (ValueError, TypeError, KeyError) as error:
                raise OutputError(
                    f"{str(path)!r} holds a line that is no sample, perhaps of another version: write to a new folder"
                ) from error


def write_features(path: Path, features: Mapping[str, np.ndarray]) -> None:
    """Keep the features of a picture, or the counts of its tokens, whole or not at all."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **dict(features))  # type: ignore[arg-type]
    make_folder(path.parent)
    write_beside(path, buffer.getvalue(), force=True)


def read_features(path: Path) -> dict[str, np.ndarray]:
    """Features that were kept."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
