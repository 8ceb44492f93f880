"""Exit codes, and which error has which."""

from __future__ import annotations

import errno
from enum import IntEnum

from obverse import errors
from obverse_registry import RegistryError


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


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (errors.DivergedError, ExitCode.DIVERGED),
    (errors.UnknownCodecError, ExitCode.MISSING),
    (errors.WrongWeightsError, ExitCode.MISSING),
    (errors.WeightsError, ExitCode.MISSING),
    (errors.StreamError, ExitCode.BAD_STREAM),
    (errors.ConfigError, ExitCode.USAGE),
    (errors.UnknownNameError, ExitCode.USAGE),
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
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ExitCode.FAILURE, "no space left on the device"
    if isinstance(error, OSError):
        return ExitCode.FAILURE, text
    return ExitCode.FAILURE, f"internal error: {type(error).__name__}: {text} (--debug shows where)"
