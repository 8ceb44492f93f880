"""Processes that `accelerate launch` started together, on one machine or several, and the share that each has."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Shares are never equal: how long the first to be done may wait for the last."""


@dataclass(frozen=True)
class Group:
    """This process among those of its launch; a process that was started alone is a group of one.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that merges and reports."""
        return self.rank == 0

    def share(self, names: Sequence[str]) -> list[str]:
        """Of things with names, as files, those that are this process's to do, in their order.

        They are dealt out in the order of the hashes of their names: to each process as many, give or take one, and a
        mixture of whatever stands together in the list.
        """
        dealt = sorted(names, key=lambda name: (hashlib.sha256(os.fsencode(name)).digest(), name))
        own = set(dealt[self.rank :: self.size])
        return [name for name in names if name in own]

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            _state().wait_for_everyone()

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of ranks; every process calls this and gets them."""
        if self.size == 1:
            return list(items)
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(list(items))
        return gathered


@contextmanager
def joined() -> Iterator[Group]:
    """This process's group, for as long as the `with` lasts; no process leaves before all are done."""
    if not _launched():
        yield Group()
        return
    state = _state()
    group = Group(state.process_index, state.num_processes)
    yield group
    group.wait()
    gc.collect()  # nothing may hold on to the group, else its threads are torn down with the interpreter
    state.destroy_process_group()


def own_device(name: str) -> str:
    """The torch device of this process: of `cuda` alone, the GPUs of a machine are dealt out to its processes."""
    if name != "cuda" or not _launched():
        return name
    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK') or 0) % max(1, torch.cuda.device_count())}"


def _launched() -> bool:
    """Whether a launcher has told how to find the others; some clusters set WORLD_SIZE alone for every program."""
    told = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR")]
    return all(told) and told[0].isdecimal() and int(told[0]) > 1


def _state() -> Any:
    from accelerate import PartialState

    # Only small messages pass between the processes, whatever device they compute on.
    return PartialState(cpu=True, timeout=_PATIENCE)
