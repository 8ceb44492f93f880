"""The command line: `obverse COMMAND`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The only place where errors become text and an exit code.

    Args:
        arguments: words after `obverse`; the process's own by default.

    Returns:
        An `ExitCode`.
    """
    from obverse.cli.exit import ExitCode, exit_code

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        from obverse.cli.app import app

        result = app(args=words, prog_name="obverse", standalone_mode=False)
        return int(result or 0)
    except KeyboardInterrupt:
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as error:
        if debug:
            raise
        shown = getattr(error, "format_message", None)
        if shown is not None:  # typer's own usage errors
            _complain(f"{shown()} (see obverse --help)")
            return ExitCode.USAGE
        if type(error).__name__ in ("Exit", "Abort"):
            return int(getattr(error, "exit_code", ExitCode.FAILURE))
        code, text = exit_code(error)
        _complain(text)
        return code


def _complain(text: str) -> None:
    print(f"obverse: {text}", file=sys.stderr)


def run() -> None:
    """Entry point of the `obverse` script."""
    sys.exit(main())
