"""Standard input and output as bytes."""

from __future__ import annotations

import sys
from typing import BinaryIO

from obverse.errors import OutputError, UnsupportedInputError
from obverse.files import output_error


def read_input() -> bytes:
    """All of standard input.

    Raises:
        UnsupportedInputError: it is closed.
    """
    if sys.stdin is None:
        raise UnsupportedInputError("standard input is closed")
    return sys.stdin.buffer.read()


def binary_output() -> BinaryIO:
    """Standard output, for bytes.

    Raises:
        OutputError: it is closed.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    return sys.stdout.buffer


def write_output(data: bytes) -> None:
    """Write bytes to standard output.

    Raises:
        OutputError: they cannot be written.
        BrokenPipeError: its reader has gone.
    """
    stream = binary_output()
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error("standard output", error) from error
