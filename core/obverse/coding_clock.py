"""How much of the time of compress and decompress goes to entropy coding, and how much to networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch


class CodingClock:
    """Seconds spent between integer logits or table indices and bytes.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0


_running: ContextVar[CodingClock | None] = ContextVar("coding_clock", default=None)


@contextmanager
def coding_clock() -> Iterator[CodingClock]:
    """Count the time that entropy coders take for as long as the `with` lasts.

    On a GPU the networks are waited for each time before a coder's time begins.
    """
    clock = CodingClock()
    token = _running.set(clock)
    try:
        yield clock
    finally:
        _running.reset(token)


@contextmanager
def coding() -> Iterator[None]:
    """What runs in this `with` is entropy coding; for those who call coders."""
    clock = _running.get()
    if clock is None:
        yield
        return
    synchronise()
    start = time.perf_counter()
    try:
        yield
    finally:
        clock.seconds += time.perf_counter() - start


def synchronise() -> None:
    """Wait for the work that the GPU was given, where one is in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
