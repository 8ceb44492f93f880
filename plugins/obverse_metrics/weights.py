"""The files of weights that metrics need, and where they lie.

A file is the one that the metric's option `weights` names (`--metric-option NAME.weights=FILE`; several with commas
between them), or it lies under its published name in the folder that the environment variable OBVERSE_METRIC_WEIGHTS
names. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from obverse.checkpoints import read_checkpoint
from obverse.errors import WeightsError
from obverse.weights import differences

FOLDER = "OBVERSE_METRIC_WEIGHTS"
_COUNTER = "num_batches_tracked"  # of batch normalisation; some files have it, evaluation never reads it


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors published it.

    Attributes:
        name: what the file is called.
        url: where to get it.
        licence: SPDX identifier, or words where there is none.
    """

    name: str
    url: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name} ({self.url}, {self.licence})"


class MetricWeights:
    """The files of one metric.

    Args:
        metric: name of the metric, for messages.
        published: files that together hold all weights.
        merged: name of one file that may stand in their place in the folder.
        given: paths from the metric's option, with commas between them; None to look in the folder.
    """

    def __init__(
        self, *, metric: str, published: Sequence[Published], merged: str | None = None, given: str | None = None
    ) -> None:
        self._metric, self._published, self._merged, self._given = metric, published, merged, given

    def missing(self) -> str | None:
        """Which files are not there, where they come from and how to name them, in one line; or None."""
        paths = self._given_paths()
        if paths:
            absent = [path for path in paths if not path.is_file()]
            return f"no file {str(absent[0])!r}; check {self._metric}.weights" if absent else None
        if self._in_folder():
            return None
        files, option = ("it in", "FILE") if len(self._published) == 1 else ("them in", "FILE,FILE")
        return (
            f"needs {' and '.join(map(str, self._published))}; put {files} the folder that {FOLDER} names, or give "
            f"--metric-option {self._metric}.weights={option}"
        )

    def paths(self) -> tuple[Path, ...]:
        """The files.

        Raises:
            WeightsError: they are not there.
        """
        reason = self.missing()
        if reason:
            raise WeightsError(f"metric {self._metric!r} {reason}")
        return self._given_paths() or self._in_folder()

    @property
    def digest(self) -> str:
        """The first 8 hexadecimal digits of each file's SHA-256; empty where they are not there."""
        return "" if self.missing() else "+".join(map(_digest, self.paths()))

    def _given_paths(self) -> tuple[Path, ...]:
        return tuple(Path(part).expanduser() for part in self._given.split(",")) if self._given else ()

    def _in_folder(self) -> tuple[Path, ...]:
        folder = os.environ.get(FOLDER)
        if not folder:
            return ()
        choices = [[file.name for file in self._published], *([[self._merged]] if self._merged else [])]
        for names in choices:
            paths = tuple(Path(folder).expanduser() / name for name in names)
            if all(path.is_file() for path in paths):
                return paths
        return ()


@cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def read_all(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of some files, in float32 where they are floating-point.

    Raises:
        WeightsError: a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= read_checkpoint(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], paths: Sequence[Path]) -> None:
    """Load a network for evaluation, strictly.

    Args:
        model: the network; put in evaluation mode, without gradients.
        tensors: under its names.
        paths: where they come from, for the message.

    Raises:
        WeightsError: keys or shapes differ.
    """
    expected, given = (
        {name: value for name, value in each.items() if not name.endswith(_COUNTER)}
        for each in (model.state_dict(), tensors)
    )
    problems = differences(expected, given)
    if problems:
        where = ", ".join(map(str, paths))
        raise WeightsError(f"weights of {type(model).__name__} do not fit ({where}): {problems}")
    model.load_state_dict(given, strict=False)
    model.eval().requires_grad_(False)
