"""Jobs in several processes, which end at once and tidily when the command is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from obverse.cli.exit import ExitCode
from obverse.cli.jobs import Job, Outcome, Work, attempt


def perform(work: Work, jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs; each process keeps what it loads."""
    if processes == 1 or len(jobs) <= 1:
        for job in jobs:
            yield attempt(work, job)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    count = min(processes, len(jobs))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _start, (count,)) as pool:
        try:
            with _interrupts_held():
                outcomes = pool.map(_attempt, [work] * len(jobs), jobs)
            yield from outcomes
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block is left. Processes that start in it never see one: it is ours to end them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(count: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _end)
        sys.unraisablehook = _ask_again
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


_working = False


def _end(*_: object) -> NoReturn:
    """Leave the job that is at work, so that its temporary files go; between jobs there is nothing to leave."""
    if _working:
        sys.exit(ExitCode.INTERRUPTED)
    os._exit(ExitCode.INTERRUPTED)


def _ask_again(swallowed: sys.UnraisableHookArgs) -> None:
    """An exit that fell into a callback or a destructor, which cannot pass it on, is tried again a moment later."""
    if isinstance(swallowed.exc_value, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(swallowed)


def _attempt(work: Work, job: Job) -> Outcome:
    global _working
    try:
        _working = True
        outcome = attempt(work, job)
        _working = False
        return outcome
    except SystemExit:  # by now temporary files are gone; the pool would go on to the next job
        os._exit(ExitCode.INTERRUPTED)
