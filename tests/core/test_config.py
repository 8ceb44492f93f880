"""Configurations: files, swaps, overrides, paths and fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import toy_config

from obverse.config import CodecConfig, installed_codecs, load_config
from obverse.errors import ConfigError, UnknownNameError, WeightsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy_config(tmp_path)


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_file_is_read(path: Path) -> None:
    config = load_config(path)
    assert config.name == "toy"
    assert config.parts["quantizer"] == {"name": "unit-vector", "size": 16, "dim": 4}
    assert config.parts["encoder"]["widths"] == [8, 8, 8]
    assert config.weights == (path.with_suffix(".safetensors"),)


def test_installed_codecs_are_found_by_name() -> None:
    assert load_config("pocket-vq").name == "pocket-vq"
    assert {"pocket-vq", "pocket-hyper"} <= {config.name for config in installed_codecs()}


def test_an_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"pocket-vg.*did you mean 'pocket-vq'"):
        load_config("pocket-vg")


def test_unknown_keys_are_listed_with_the_nearest(path: Path) -> None:
    edited(path, "\ncoder:", "\ncodr:")
    path.write_text(path.read_text() + "extra: 1\n")
    with pytest.raises(ConfigError, match=r"unknown keys 'codr' did you mean 'coder'\?; 'extra'"):
        load_config(path)


@pytest.mark.parametrize("key", ["name", "encoder", "quantizer", "prior", "coder"])
def test_missing_keys_are_named(path: Path, key: str) -> None:
    body = load_config(path).to_yaml()
    lines = body.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith((" ", "-"))), len(lines))
    path.write_text("\n".join(lines[:start] + lines[stop:]))
    with pytest.raises(ConfigError, match=f"missing \\['{key}'\\]"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "is not a configuration: expected keys"),
        ("name: [\n", "configuration .*toy.yaml"),
        ("", "missing"),
        ("name: ${other}\n", "configuration|missing|Interpolation"),
    ],
)
def test_files_that_are_no_configuration(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml' cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8name")
    with pytest.raises(ConfigError, match=r"binary\.yaml' is not text|binary\.yaml'"):
        load_config(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_part_can_be_a_bare_name(path: Path) -> None:
    edited(path, "coder:\n  name: range", "coder: range")
    assert load_config(path).parts["coder"] == {"name": "range"}
    assert load_config(path, parts={"coder": "raw"}).parts["coder"] == {"name": "raw"}
    assert load_config(path, overrides=["coder.name=raw"]).parts["coder"] == {"name": "raw"}


@pytest.mark.parametrize("section", ["coder: 3", "coder: {}", "coder: {name: 3}", "coder: [range]"])
def test_a_part_needs_a_name(path: Path, section: str) -> None:
    edited(path, "coder:\n  name: range", section)
    with pytest.raises(ConfigError, match="coder needs a name"):
        load_config(path)


def test_a_swapped_part_loses_its_arguments(path: Path) -> None:
    config = load_config(path, parts={"prior": "pocket-llama", "encoder": "pocket-conv"})
    assert config.parts["prior"] == {"name": "pocket-llama"}
    assert config.parts["encoder"] == load_config(path).parts["encoder"], "a part that stays keeps its arguments"


def test_an_unknown_part_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="'priors' did you mean 'prior'"):
        load_config(path, parts={"priors": "uniform"})


def test_overrides_win(path: Path) -> None:
    config = load_config(path, parts={"prior": "pocket-llama"}, overrides=["prior.layers=4", "quantizer.size=32"])
    assert config.parts["prior"] == {"name": "pocket-llama", "layers": 4}
    assert config.parts["quantizer"]["size"] == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prior", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("pror.layers=3", "'pror' did you mean 'prior'"),
        ("prior.layers=[1", "."),
        ("encoder.widths.x=1", "."),
    ],
)
def test_overrides_are_checked(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides=[override])


class TestWeights:
    def test_paths_are_relative_to_the_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        assert load_config(path).weights == (path.parent / "toy.safetensors",)

    def test_paths_of_the_caller_are_relative_to_the_caller(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.chdir(other)
        assert load_config(path, weights=["a.safetensors"]).weights == (other / "a.safetensors",)
        assert load_config(path, overrides=["weights=[b.safetensors]"]).weights == (other / "b.safetensors",)

    def test_several_files(self, path: Path) -> None:
        edited(path, "weights: toy.safetensors", "weights: [a.st, b.st]")
        assert [file.name for file in load_config(path).weights] == ["a.st", "b.st"]

    def test_none(self, path: Path) -> None:
        edited(path, "weights: toy.safetensors", "")
        assert load_config(path).weights == ()

    @pytest.mark.parametrize("given", ["3", "{a: b}", "[1, 2]"])
    def test_other_values_are_refused(self, path: Path, given: str) -> None:
        edited(path, "weights: toy.safetensors", f"weights: {given}")
        with pytest.raises(ConfigError, match="weights takes a path or a list of paths"):
            load_config(path)


class TestFingerprint:
    def test_it_is_stable(self, path: Path) -> None:
        assert load_config(path).fingerprint() == load_config(path).fingerprint()
        assert len(load_config(path).fingerprint()) == 3
        assert len(load_config(path).tag()) == 2

    def test_it_changes_with_the_configuration(self, path: Path) -> None:
        before = load_config(path).fingerprint()
        assert load_config(path, overrides=["quantizer.size=17"]).fingerprint() != before
        assert load_config(path, parts={"prior": "pocket-llama"}).fingerprint() != before

    def test_it_changes_with_the_weights(self, path: Path) -> None:
        before = load_config(path).fingerprint()
        toy_config(path.parent, seed=1)
        assert load_config(path).fingerprint() != before

    def test_it_does_not_change_with_the_coder(self, path: Path) -> None:
        assert load_config(path, parts={"coder": "raw"}).fingerprint() == load_config(path).fingerprint()

    def test_it_does_not_change_with_the_order_of_keys_or_the_place(self, path: Path, tmp_path: Path) -> None:
        before = load_config(path)
        parts = {part: dict(reversed(section.items())) for part, section in before.parts.items()}
        assert CodecConfig(before.name, parts, before.weights).fingerprint() == before.fingerprint()
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        assert load_config(toy_config(folder)).fingerprint() == before.fingerprint()

    def test_weights_that_are_missing(self, path: Path) -> None:
        path.with_suffix(".safetensors").unlink()
        with pytest.raises(WeightsError, match=r"toy\.safetensors' cannot be read: No such file"):
            load_config(path).fingerprint()


def test_resolved_configuration_is_read_back(path: Path, tmp_path: Path) -> None:
    edited(path, "dim: 4", "dim: ${encoder.latent_channels}")
    config = load_config(path, parts={"prior": "uniform"}, overrides=["quantizer.size=32"])
    assert config.parts["quantizer"]["dim"] == 4
    written = tmp_path / "resolved.yaml"
    written.write_text(config.to_yaml())
    assert load_config(written) == config
