"""The command line: `obverse COMMAND`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The only place where errors become text and an exit code.

    Args:
        arguments: words after `obverse`; the process's own by default.

    Returns:
        An `ExitCode`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = _dispatch([word for word in words if word != "--debug"], debug)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough
        return 1
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exception(error)
        return _explain(error)
    finally:
        _settle_output()


def _dispatch(words: list[str], debug: bool) -> int:
    import typer

    from obverse.cli.app import command
    from obverse.cli.exit import DEBUG, ExitCode

    DEBUG.set(debug)

    # Not typer's own main, which takes interrupts and closed pipes for itself.
    try:
        with command.make_context("obverse", words[:] or ["--help"]) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as done:
        return done.exit_code if words else ExitCode.USAGE


def _explain(error: Exception) -> int:
    from obverse.cli.exit import ExitCode, exit_code

    shown = getattr(error, "format_message", None)
    if shown is None:
        code, text = exit_code(error)
    else:  # typer's own usage errors
        context = getattr(error, "ctx", None)
        code, text = (
            ExitCode.USAGE,
            f"{shown().rstrip('.')} (see {context.command_path if context else 'obverse'} --help)",
        )
    _complain(text)
    return code


def _complain(text: str) -> None:
    if sys.stderr is not None:
        with suppress(BrokenPipeError):
            print(f"obverse: {text}", file=sys.stderr)


def _settle_output() -> None:
    """Keep Python from complaining at exit about output that nobody takes."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Entry point of the `obverse` script."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # names of files need not be text
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
