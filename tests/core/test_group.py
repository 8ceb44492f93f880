"""Processes that share work."""

from __future__ import annotations

import pytest

from obverse.group import Group, joined, own_device

NAMES = [f"photos/{number:03}.png" for number in range(100)]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_shares_are_equal_and_leave_nothing_out(size: int) -> None:
    shares = [Group(rank, size).share(NAMES) for rank in range(size)]
    assert sorted(name for share in shares for name in share) == NAMES
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share) for share in shares)


def test_shares_do_not_depend_on_the_order_of_the_list() -> None:
    assert set(Group(1, 3).share(NAMES)) == set(Group(1, 3).share(NAMES[::-1]))


def test_shares_mix_what_stands_together() -> None:
    assert 10 < len(set(Group(0, 2).share(NAMES)) & set(NAMES[:50])) < 40


@pytest.mark.parametrize(
    "told", [{}, {"WORLD_SIZE": "8"}, {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost"}]
)
def test_a_process_alone_is_a_group_of_one(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with joined() as group:
        assert group == Group(0, 1)
        assert group.first
        assert group.gather([1, 2]) == [1, 2]
        group.wait()
    assert own_device("cuda") == "cuda"


def test_processes_of_a_machine_get_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, value in {"WORLD_SIZE": "8", "RANK": "13", "LOCAL_RANK": "5", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert own_device("cuda") == "cuda:1"
    assert own_device("cuda:3") == "cuda:3"
    assert own_device("cpu") == "cpu"
