"""Exit codes, and which error has which."""

from __future__ import annotations

import errno
from contextvars import ContextVar
from enum import IntEnum

from obverse import errors
from obverse_registry import RegistryError

DEBUG = ContextVar("debug", default=False)
"""Whether errors are shown with their tracebacks."""


class UsageError(errors.ObverseError):
    """The words of the command line contradict each other or make no sense."""


class ExitCode(IntEnum):
    """What a command's exit status says."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    BAD_STREAM = 3
    MISSING = 4
    DIVERGED = 5
    SOME_FAILED = 6
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILURE: "an input cannot be read or an output not written",
    ExitCode.USAGE: "wrong option, name or configuration; a picture does not fit in the size asked for",
    ExitCode.BAD_STREAM: "not an .obv stream, damaged, cut short or of a newer version",
    ExitCode.MISSING: "codec, plugin or weights missing, or other weights or numerics than the stream's",
    ExitCode.DIVERGED: "decoded symbols are not the encoded ones, nothing is written; or the self-test failed",
    ExitCode.SOME_FAILED: "some of several files failed, the others are done",
    ExitCode.INTERRUPTED: "interrupted",
}
"""Every exit code in words, for the help text."""

_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (errors.DivergedError, ExitCode.DIVERGED),
    (errors.UnknownCodecError, ExitCode.MISSING),
    (errors.WrongWeightsError, ExitCode.MISSING),
    (errors.WrongNumericsError, ExitCode.MISSING),
    (errors.WeightsError, ExitCode.MISSING),
    (errors.PluginError, ExitCode.MISSING),
    (errors.StreamError, ExitCode.BAD_STREAM),
    (errors.ConfigError, ExitCode.USAGE),
    (errors.UnknownNameError, ExitCode.USAGE),
    (errors.RateError, ExitCode.USAGE),
    (UsageError, ExitCode.USAGE),
    (errors.ObverseError, ExitCode.FAILURE),
    (RegistryError, ExitCode.MISSING),
)


def exit_code(error: BaseException) -> tuple[ExitCode, str]:
    """Exit code and one line for an error."""
    text = " ".join(str(error).split())
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, text
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return ExitCode.FAILURE, "out of memory: use a smaller picture, or fewer --jobs"
    if type(error).__name__ == "BrokenProcessPool":
        return ExitCode.FAILURE, "a process was killed, perhaps for want of memory: use fewer --jobs, and --resume"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ExitCode.FAILURE, "no space left on the device"
    if isinstance(error, OSError):
        return ExitCode.FAILURE, text
    return ExitCode.FAILURE, f"internal error: {type(error).__name__}: {text} (--debug shows where)"
