"""Output files are whole or absent, whatever goes wrong."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from unittest import mock

import pytest

from obverse.errors import OutputError, OutputExistsError
from obverse.files import save_beside, write_beside


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("force", [True, False])
def test_files_get_the_permissions_of_any_new_file(force: bool, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_beside(tmp_path / "x", b"new", force)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_private_files_of_other_writers_become_ordinary(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        path.touch(0o600)

    old = os.umask(0o022)
    try:
        save_beside(tmp_path / "x", save)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "x")
    write_beside(tmp_path / "link", b"1")
    with pytest.raises(OutputExistsError, match="link"):
        write_beside(tmp_path / "link", b"2")
    write_beside(tmp_path / "link", b"2", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "x").read_bytes() == b"2"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "no hard links")))
    write_beside(tmp_path / "y", b"y")

    def token(_: int) -> str:
        (tmp_path / "x").write_bytes(b"theirs")
        return "token"

    monkeypatch.setattr("obverse.files.secrets.token_hex", token)
    with pytest.raises(OutputExistsError, match=r"x' exists; use --force to overwrite it"):
        write_beside(tmp_path / "x", b"ours")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x": b"theirs", "y": b"y"}


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space"),
            OutputError,
            r"cannot write '.*x': no space is left on the device",
        ),
        (OSError(errno.EACCES, "denied"), OutputError, "permission denied; write elsewhere"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "x': Input/output error"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_a_failed_write_leaves_nothing(
    error: BaseException,
    raised: type[BaseException],
    message: str,
    force: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(io.FileIO):
        def write(self, data: object) -> int:
            super().write(b"half")
            raise error

    monkeypatch.setattr(Path, "open", lambda self, mode: Failing(self, mode))
    with pytest.raises(raised, match=message):
        write_beside(tmp_path / "x", b"whole", force)
    assert list(tmp_path.iterdir()) == []


def test_impossible_targets(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist; create it first"):
        write_beside(tmp_path / "missing" / "x", b"")
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        write_beside(tmp_path, b"", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a part of the path is a file, not a folder"):
        write_beside(tmp_path / "file" / "x", b"")
    with pytest.raises(OutputError, match="the name is too long"):
        write_beside(tmp_path / ("x" * 300), b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_beside("null\0character", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("force", [True, False])
def test_devices_are_written_to_and_stay(force: bool) -> None:
    with pytest.raises(OutputError, match="'/dev/full': no space is left on the device"):
        write_beside("/dev/full", b"data", force)
    write_beside("/dev/null", b"data", force)
    assert Path("/dev/null").is_char_device()
