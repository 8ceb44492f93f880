"""`--numerics` and `--verify`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import LyingPrior

from obverse.cli import code as commands
from obverse.container import unpack

MODES = ["exact", "guarded64", "native"]
TOY = ("-m", "toy-llama")


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_in_the_stream_and_decoding_takes_it_from_there(obverse, photo, mode) -> None:
    done = obverse("compress", photo, "x.obv", *TOY, "--numerics", mode, "--json")
    (result,) = done.json["results"]
    assert (result["numerics"], result["verified"]) == (mode, mode == "native")
    assert unpack(Path("x.obv").read_bytes()).header.mode() == mode
    (report,) = obverse("info", "x.obv", "--json").json
    assert (report["version"], report["numerics"], report["specification"]) == (1, mode, 1)
    assert ("environment" in report["metadata"]) == (mode == "native")
    assert obverse("decompress", "x.obv", "found.png").code == 0
    assert obverse("decompress", "x.obv", "named.png", *TOY).code == 0
    assert Path("found.png").read_bytes() == Path("named.png").read_bytes()


def test_the_default_is_the_first_that_the_prior_has(obverse, photo) -> None:
    (result,) = obverse("compress", photo, "-m", "toy", "--json").json["results"]
    assert result["numerics"] == "exact"


def test_estimates_tell_the_mode(obverse, photo) -> None:
    bits = {}
    for mode in MODES:
        (result,) = obverse("compress", photo, *TOY, "--entropy-estimation", "--numerics", mode, "--json").json[
            "results"
        ]
        assert result["numerics"] == mode
        assert "verified" not in result
        bits[mode] = result["bits_estimated"]
    assert bits["guarded64"] == pytest.approx(bits["exact"], rel=0.01)


@pytest.mark.parametrize("words", [["compress", "photo.png"], ["generate"], ["reconstruct", "photo.png"]])
def test_unknown_modes(obverse, photo, words) -> None:
    message = "no numerics mode 'guarded'; did you mean 'guarded64'? (modes: exact, guarded64, native)"
    obverse(*words, *TOY, "--numerics", "guarded").failed(2, message)
    assert [path.name for path in Path().iterdir()] == ["photo.png"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_to_look_at_are_made_in_any_mode(obverse, photo, mode) -> None:
    assert obverse("generate", *TOY, "--size", "32x32", "-o", "drawn.png", "--numerics", mode).code == 0
    assert obverse("reconstruct", photo, "both.png", *TOY, "--numerics", mode).code == 0


def test_modes_that_a_prior_does_not_have(obverse, photo, monkeypatch) -> None:
    commands._loaded.clear()
    monkeypatch.setattr("obverse.priors.UniformPrior.exact", False)
    message = "prior UniformPrior has no exact form: its numerics modes are guarded64 and native"
    obverse("compress", photo, "-m", "toy", "--numerics", "exact").failed(2, message)


def test_a_stream_in_a_mode_that_its_codec_does_not_have(obverse, stream, monkeypatch) -> None:
    commands._loaded.clear()
    monkeypatch.setattr("obverse.priors.UniformPrior.exact", False)
    for words in ([], ["-m", "toy"]):
        obverse("decompress", stream, "x.png", *words).failed(3, "stream.obv: ", "mode that its codec does not have")


def test_native_streams_of_another_environment(obverse, photo, monkeypatch) -> None:
    assert obverse("compress", photo, "x.obv", *TOY, "--numerics", "native").code == 0
    threads = torch.get_num_threads()
    monkeypatch.setattr("torch.get_num_threads", lambda: threads + 1)
    words = "x.obv: ", f"{threads} threads", f"{threads + 1} threads", "in another numerics mode"
    obverse("decompress", "x.obv").failed(4, *words)
    assert not Path("x.png").exists()


def test_verified_streams_are_those_of_others(obverse, photo, stream) -> None:
    done = obverse("compress", photo, "x.obv", "-m", "toy", "--verify", "--json")
    assert done.json["results"][0]["verified"] is True
    assert Path("x.obv").read_bytes() == stream.read_bytes()


def test_a_stream_that_does_not_decode_is_not_written(obverse, photo, monkeypatch) -> None:
    commands._loaded.clear()
    monkeypatch.setattr("obverse.priors.UniformPrior", LyingPrior)
    for words in (["--verify"], ["--numerics", "native"]):
        obverse("compress", photo, "-m", "toy", *words).failed(5, "photo.png: ", "does not decode to what was encoded")
        assert not Path("photo.obv").exists()
    assert obverse("compress", photo, "-m", "toy").code == 0
    commands._loaded.clear()
