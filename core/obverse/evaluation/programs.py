"""Other programs: found, run within a time limit, and refused in one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from obverse.errors import ObverseError


class ProgramError(ObverseError):
    """Another program cannot be started, failed, ran out of time, or wrote something else than it should."""


def find_program(program: str, directory: Path | None = None) -> str | None:
    """Path of a program, or None.

    Args:
        program: a name on the PATH, or a path.
        directory: what a relative path starts from; by default the current directory.
    """
    beside = (directory or Path()) / Path(program).expanduser()
    return shutil.which(str(beside.absolute()) if os.path.dirname(program) else program)


def run_program(words: Sequence[str], *, timeout: float, directory: Path | None = None, check: bool = True) -> str:
    """Run a program without a shell, and return what it says on both of its outputs.

    Args:
        words: program and arguments.
        timeout: seconds, after which it is killed together with the programs that it started.
        directory: where it runs; by default the current directory.
        check: refuse an exit code other than 0. Some programs tell their version with another.

    Raises:
        ProgramError: it is missing, fails or takes too long; with the last line that it says.
    """
    name = Path(words[0]).name
    program = find_program(words[0], directory)
    if program is None:
        raise ProgramError(f"program {words[0]!r} is not found; install it or put it on the PATH")
    # A file, not a pipe: what a program leaves running in the background would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [program, *words[1:]],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramError(f"{name} cannot be started: {error.strerror}") from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProgramError(f"{name} was stopped after {timeout:g} seconds without an end") from None
        finally:  # also when the user interrupts
            _kill(process)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if check and code != 0:
        last = last_line(said)
        raise ProgramError(f"{name} failed with exit code {code}" + (f": {last}" if last else " and said nothing"))
    return said


def last_line(text: str) -> str:
    """The last line that is not empty, without what a progress bar overwrote."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
