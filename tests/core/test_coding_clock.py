"""The time of entropy coding, apart from that of the networks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import toys

import obverse
from obverse.coders.raw import RawDecoder, RawEncoder
from obverse.coding_clock import coding_clock


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> obverse.Codec:
    path: Path = toys.toy_config(tmp_path_factory.mktemp("toys"))
    return obverse.load(path, parts={"coder": "raw"})


def slowed(method):
    def slow(*arguments):
        time.sleep(0.05)
        return method(*arguments)

    return slow


def test_coders_are_counted_and_nothing_else(codec: obverse.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    image = toys.picture(48, 32)
    for kind, names in ((RawEncoder, ("encode", "finish")), (RawDecoder, ("decode",))):
        for name in names:
            monkeypatch.setattr(kind, name, slowed(getattr(kind, name)))
    monkeypatch.setattr(codec.pipeline.encoder, "encode", slowed(codec.pipeline.encoder.encode))
    with coding_clock() as clock:
        start = time.perf_counter()
        data = codec.compress(image)
        seconds = time.perf_counter() - start
    assert 0.1 <= clock.seconds <= seconds - 0.05
    with coding_clock() as clock:
        codec.decompress(data)
    assert clock.seconds >= 0.05


def test_it_stops_with_its_block(codec: obverse.Codec) -> None:
    with coding_clock() as clock:
        pass
    codec.compress(toys.picture(16, 16))
    assert clock.seconds == 0
