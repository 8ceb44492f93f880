"""Choosing and changing a codec: names, files, parts, overrides, weights, qualities."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from obverse.container import unpack

TOY = ("-m", "toy")


def test_print_config_shows_what_would_run(obverse) -> None:
    done = obverse("compress", *TOY, "--print-config", "encoder.latent_channels=6", "-s", "coder=raw")
    assert (done.code, done.err) == (0, "")
    shown = yaml.safe_load(done.out)
    assert shown["encoder"]["latent_channels"] == 6
    assert shown["coder"] == {"name": "raw"}
    assert [Path(path).name for path in shown["weights"]] == ["toy.safetensors"]


def test_a_printed_config_is_a_config(obverse, photo) -> None:
    Path("mine.yaml").write_text(obverse("compress", *TOY, "--print-config").out)
    assert obverse("compress", photo, "a.obv", "--config", "mine.yaml").code == 0
    assert obverse("decompress", "a.obv", "a.png").code == 0  # the very codec that is installed


@pytest.mark.parametrize("command", ["generate", "reconstruct"])
def test_print_config_of_other_commands(obverse, command) -> None:
    assert yaml.safe_load(obverse(command, *TOY, "--print-config").out)["name"] == "toy"


def test_the_coder_can_be_swapped_and_streams_tell_which(obverse, photo) -> None:
    assert obverse("compress", photo, "raw.obv", *TOY, "--coder", "raw").code == 0
    assert obverse("compress", photo, "range.obv", *TOY, "-c", "range").code == 0
    raw, coded = (unpack(Path(name).read_bytes()).header for name in ("raw.obv", "range.obv"))
    assert (raw.coder, coded.coder) == (1, 0)
    assert raw.fingerprint == coded.fingerprint
    for name in ("raw", "range"):
        assert obverse("decompress", f"{name}.obv", f"{name}.png").code == 0
    assert Path("raw.png").read_bytes() == Path("range.png").read_bytes()


@pytest.mark.parametrize("words", [["--coder", "ideal"], ["--entropy-estimation"], ["coder.name=ideal"]])
def test_estimation_writes_nothing(obverse, photo, words) -> None:
    done = obverse("compress", photo, *TOY, *words)
    assert (done.code, done.out, done.err) == (0, "photo.png: 6.0 bytes estimated, 0.0240 bpp\n", "")
    (result,) = obverse("compress", photo, *TOY, *words, "--json").json["results"]
    assert result["bits_estimated"] == pytest.approx(12 * 4, abs=0.01)  # 12 tokens out of 16, all as probable
    assert (result["output"], result["bpp_estimated"]) == (None, result["bits_estimated"] / 2000)
    assert [path.name for path in Path().iterdir()] == ["photo.png"]


def test_a_coder_that_only_measures_cannot_reconstruct(obverse, photo) -> None:
    obverse("reconstruct", photo, *TOY, "--coder", "ideal").failed(2, "'ideal' only measures", "use 'range'")


def test_the_prior_can_be_swapped(obverse, photo) -> None:
    swapped = obverse("compress", photo, "x.obv", "-m", "toy-llama", "--prior", "uniform", "--json").json
    plain = obverse("compress", photo, "y.obv", "-m", "toy-llama", "--json").json
    assert [(r["bytes"], r["coder"]) for r in swapped["results"]] == [(22, "range")]
    assert [(r["bytes"], r["coder"]) for r in plain["results"]] == [(22, "raw")], "an untrained prior"
    assert obverse("decompress", "x.obv", "-m", "toy-llama", "--prior", "uniform", "-o", "x.png").code == 0
    assert obverse("decompress", "y.obv", "y.png").code == 0
    assert Path("x.png").read_bytes() == Path("y.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["pior.layers=4"], ["'pior'", "'prior'"]),
        (["-s", "prior.layrs=4", "-m", "toy-llama"], ["'layrs'", "'layers'"]),
        (["prior.layrs=4", "-m", "toy-llama"], ["'layrs'", "'layers'"]),
        (["encoder.wdths=[8]", "encoder.latent_chanels=3"], ["'wdths'", "'widths'", "'latent_chanels'"]),
        (["coder.speed=3"], ["'speed'"]),
        (["-s", "prior"], ["'prior'", "key=value"]),
        (["-s", "=3"], ["key=value"]),
        (["encoder.widths=[8"], ["toy.yaml"]),
        (["prior=null"], ["missing", "prior"]),
        (["encoder.widths=abc"], ["encoder 'pocket-conv'"]),
        (["encoder.latent_channels=5"], ["do not fit"]),
        (["quantizer.size=17", "-m", "toy-llama"], ["do not fit", "17", "16"]),
        (["--prior", "unifrm"], ["'unifrm'", "'uniform'"]),
        (["--coder", "rang"], ["'rang'", "'range'"]),
        (["--encoder", "pocket-hyper"], ["pocket-hyper"]),
        (["-q", "2"], ["quality 2", "only quality 1"]),
        (["-m", "toy-hyper", "-q", "0"], ["quality 0", "qualities 1 to 2"]),
        (["--device", "abacus"], ["'abacus'"]),
        (["--config", "gone.yaml"], ["gone.yaml", "cannot be read"]),
        (["--config", "photo.png"], ["photo.png"]),
        (["-m", "gone.yaml"], ["gone.yaml", "cannot be read"]),
        (["-m", "nothing-like-it"], ["'nothing-like-it'", "installed: "]),
    ],
)
def test_wrong_configurations_are_usage_errors(obverse, photo, words, messages) -> None:
    own = () if "-m" in words or "--config" in words else TOY
    for name in ("photo.png", "many.png"):
        Path(name).write_bytes(photo.read_bytes())
    obverse("compress", photo, "x.obv", *own, *words).failed(2, *messages)
    obverse("compress", photo, "many.png", *own, *words).failed(2, *messages)  # once, not for every file
    assert not list(Path().glob("*.obv"))


def test_quality_changes_the_size(obverse, photo) -> None:
    sizes = [
        obverse("compress", photo, f"{q}.obv", "-m", "toy-hyper", "-q", q, "--json").json["results"][0]["bytes"]
        for q in ("1", "2")
    ]
    assert sizes[0] != sizes[1]
    assert unpack(Path("2.obv").read_bytes()).header.quality == 1
    assert obverse("decompress", "1.obv", "2.obv", "-d", "out").code == 0


def test_a_configuration_file_that_is_no_mapping(obverse, photo) -> None:
    Path("list.yaml").write_text("- a\n- b\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("empty.yaml").touch()
    Path("number.yaml").write_text("name: x\nencoder: 5\nquantizer: a\nprior: b\ncoder: range\n")
    for name in ("list", "binary", "empty", "number"):
        obverse("compress", photo, "--config", f"{name}.yaml").failed(2, f"{name}.yaml")


def test_a_missing_file_is_noticed_before_a_network_is_loaded(obverse, monkeypatch) -> None:
    monkeypatch.setattr("obverse.cli.code.load_codec", None)
    obverse("compress", "gone.png", *TOY).failed(1, "gone.png")
    obverse("compress", "gone.png", "x.obv", *TOY).failed(1, "gone.png")
