"""Every exit code, and how errors are shown."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

import pytest

from obverse.cli import main
from obverse.cli.exit import MEANINGS, ExitCode, exit_code
from obverse.errors import DivergedError, ObverseError


def raiser(error: BaseException) -> object:
    def function(*_: object, **__: object) -> NoReturn:
        raise error

    return function


def test_0_done(obverse, photo) -> None:
    assert obverse("compress", photo, "-m", "toy").code == ExitCode.DONE


def test_1_an_input_cannot_be_read(obverse) -> None:
    obverse("compress", "missing.png", "-m", "toy").failed(ExitCode.FAILURE, "'missing.png'", "no such file")


def test_2_a_usage_error(obverse) -> None:
    obverse("compress", "--prio", "x").failed(ExitCode.USAGE, "--prio", "see obverse compress --help")
    obverse("compres").failed(ExitCode.USAGE, "compres", "compress", "see obverse --help")
    obverse("compress", "--jobs", "many").failed(ExitCode.USAGE, "--jobs", "see obverse compress --help")
    obverse("compress", "x.png", "-m", "tyo").failed(ExitCode.USAGE, "'tyo'", "did you mean 'toy'?")


def test_3_a_bad_stream(obverse, photo) -> None:
    obverse("decompress", photo, "x.png").failed(ExitCode.BAD_STREAM, "photo.png", "not an Obverse stream")


def test_4_something_is_missing(obverse, stream, codecs) -> None:
    words = "decompress", stream, "--config", codecs["toy"], "-o", "x.png"
    obverse(*words, "-w", "gone.safetensors").failed(ExitCode.MISSING, "gone.safetensors", "cannot be read")


def test_5_diverged(obverse, stream, monkeypatch) -> None:
    monkeypatch.setattr("obverse.codec.Codec.decode_stream", raiser(DivergedError("the symbols differ")))
    obverse("decompress", stream).failed(ExitCode.DIVERGED, "stream.obv: the symbols differ")
    assert not Path("stream.png").exists()


def test_6_some_failed(obverse, photo) -> None:
    done = obverse("compress", photo, "missing.png", "-m", "toy")
    assert done.code == ExitCode.SOME_FAILED
    assert done.out.startswith("photo.png -> photo.obv: ")
    assert "'missing.png'" in done.err
    assert done.err.endswith("1 done, 0 skipped, 1 failed\n")


def test_130_interrupted(obverse, photo, monkeypatch) -> None:
    monkeypatch.setattr("obverse.codec.Codec.compress", raiser(KeyboardInterrupt()))
    done = obverse("compress", photo, "-m", "toy")
    done.failed(ExitCode.INTERRUPTED, "interrupted")
    assert [p.name for p in Path().iterdir()] == ["photo.png"]


def test_an_interrupt_while_writing_leaves_nothing(obverse, photo, monkeypatch) -> None:
    for name in ("os.link", "os.replace"):
        monkeypatch.setattr(f"obverse.files.{name}", raiser(KeyboardInterrupt()))
    obverse("compress", photo, "-m", "toy").failed(ExitCode.INTERRUPTED)
    obverse("compress", photo, "-m", "toy", "--force").failed(ExitCode.INTERRUPTED)
    assert [p.name for p in Path().iterdir()] == ["photo.png"]


def test_the_help_text_names_every_exit_code(obverse, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = " ".join(obverse("--help").out.split())
    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f"{code:d} {meaning}" in shown


def test_no_words_show_the_help_as_a_usage_error(obverse) -> None:
    done = obverse()
    assert (done.code, done.err) == (ExitCode.USAGE, "")
    assert "Commands" in done.out


def test_help_and_version_are_no_errors(obverse) -> None:
    for words in (["-h"], ["compress", "--help"], ["--version"]):
        done = obverse(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out


@pytest.mark.parametrize("alias", ["compress", "encode"])
def test_verbs_have_aliases(obverse, photo, alias) -> None:
    assert obverse(alias, photo, "-m", "toy").code == 0
    assert obverse({"compress": "decompress", "encode": "decode"}[alias], "photo.obv", "out.png").code == 0


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_and_keeps_the_code(obverse, place) -> None:
    words = ["info", "missing.obv", "--json"]
    done = obverse(*words[:place], "--debug", *words[place:])
    assert done.code == ExitCode.FAILURE
    assert "Traceback (most recent call last)" in done.err
    assert done.err.endswith("obverse: cannot read 'missing.obv': no such file; check the path\n")
    obverse(*words).failed(ExitCode.FAILURE)
    words = ["list", "--kind", "codecs"]
    done = obverse(*words[:place], "--debug", *words[place:])
    assert done.code == ExitCode.USAGE
    assert "Traceback (most recent call last)" in done.err
    assert "obverse: no kind 'codecs'; did you mean 'codec'? (kinds: encoder, " in done.err


def test_an_internal_error_is_one_line_too(obverse, monkeypatch) -> None:
    monkeypatch.setattr("obverse.cli.show.registry", raiser(AssertionError("odd\nstate")))
    obverse("list").failed(ExitCode.FAILURE, "internal error: AssertionError: odd state (--debug shows where)")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "out of memory"),
        (OSError(errno.ENOSPC, "x"), "no space left"),
        (OSError(errno.EIO, "the disk is ill"), "the disk is ill"),
        (BrokenProcessPool("x"), "use fewer --jobs"),
        (ObverseError("two\n lines"), "two lines"),
    ],
)
def test_other_errors_are_failures(error, text) -> None:
    code, message = exit_code(error)
    assert code == ExitCode.FAILURE
    assert text in message


def test_a_reader_that_leaves_is_no_complaint(obverse, photo, monkeypatch) -> None:
    monkeypatch.setattr("obverse.cli.show._table", raiser(BrokenPipeError()))
    done = obverse("list")
    assert (done.code, done.stdout, done.err) == (ExitCode.FAILURE, b"", "")
    monkeypatch.setattr("obverse.cli.code.write_output", raiser(BrokenPipeError()))
    done = obverse("compress", photo, "-", "-m", "toy")
    assert (done.code, done.stdout, done.err) == (ExitCode.FAILURE, b"", "")


def test_main_takes_the_words_of_the_process(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["obverse", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("obverse ")
