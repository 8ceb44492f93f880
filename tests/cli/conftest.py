"""The command line in this process, with codecs small enough to be fast."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toys
from PIL import Image

from obverse.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def failed(self, code: int, *words: str) -> None:
        """Assert this exit code, and one line on stderr that holds these words."""
        assert (self.code, self.err.count("\n")) == (code, 1), self.err
        assert self.err.startswith("obverse: ")
        assert "Traceback" not in self.err
        assert [word for word in words if word not in self.err] == [], self.err


Command = Callable[..., Result]


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Configurations of the toy codecs by name."""
    folder = tmp_path_factory.mktemp("toys")
    return {
        "toy": toys.toy_config(folder),
        "toy-llama": toys.toy_config(folder, name="toy-llama", prior="llama"),
        "toy-hyper": toys.toy_hyper_config(folder),
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is remembered between commands."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def codecs(configs: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """The toy codecs, installed."""
    with toys.installed(*configs.values()):
        yield configs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def photo(folder: Path) -> Path:
    """A picture of 50x40 pixels in the working directory."""
    Image.fromarray(toys.picture(50, 40)).save("photo.png")
    return Path("photo.png")


@pytest.fixture
def obverse(
    codecs: dict[str, Path],
    cache: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Command:
    """Run a command: `obverse("compress", "photo.png", "-m", "toy")`."""
    monkeypatch.setenv("OBVERSE_CACHE", str(cache))

    def run(*words: str | Path, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = main([str(word) for word in words])
        captured = capsysbinary.readouterr()
        return Result(code, captured.out, captured.err.decode())

    return run


@pytest.fixture
def stream(obverse: Command, photo: Path) -> Path:
    """The picture as a stream of codec `toy` in the working directory."""
    assert obverse("compress", photo, "stream.obv", "-m", "toy").code == 0
    return Path("stream.obv")
