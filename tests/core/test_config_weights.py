"""Where a configuration's weights lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from obverse.config import installed_codecs, load_config
from obverse.errors import WeightsError
from obverse_registry import Component, hookimpl, registry

BODY = "name: mine\nencoder: e\nquantizer: q\nprior: p\ncoder: range\nweights: {weights}\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an importable package that must not be imported."""
    folder = tmp_path / "site" / "holds_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def config(folder: Path, weights: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(BODY.format(weights=weights), encoding="utf-8")
    return path


def test_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = config(tmp_path / "inner", "[../a.safetensors, b.safetensors]")
    assert load_config(path).weights == (tmp_path / "a.safetensors", tmp_path / "inner" / "b.safetensors")


def test_what_the_caller_gives_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path / "inner", "a.safetensors")
    assert load_config(path, weights=["c.safetensors"]).weights == (tmp_path / "c.safetensors",)
    assert load_config(path, overrides=["weights=c.safetensors"]).weights == (tmp_path / "c.safetensors",)


def test_in_a_package_without_importing_it(tmp_path: Path, package: Path) -> None:
    (package / "w").mkdir()
    (package / "w" / "a.safetensors").touch()
    path = config(tmp_path, "package://holds_weights/w/a.safetensors")
    assert load_config(path).weights == (package / "w" / "a.safetensors",)
    given = "package://holds_weights/w/a.safetensors"
    assert load_config(path, weights=[given]).weights == (package / "w" / "a.safetensors",)
    assert "holds_weights" not in sys.modules


def test_a_file_that_the_package_lacks_is_missed_when_it_is_read(tmp_path: Path, package: Path) -> None:
    loaded = load_config(config(tmp_path, "package://holds_weights/none.safetensors"))
    with pytest.raises(WeightsError, match=r"none\.safetensors' cannot be read: No such file"):
        loaded.fingerprint()


@pytest.mark.parametrize(
    "weights", ["package://not_installed/a", "package://holds_weights", "package://", "package://a.b/c"]
)
@pytest.mark.usefixtures("package")
def test_a_package_that_is_not_there(tmp_path: Path, weights: str) -> None:
    with pytest.raises(WeightsError, match=r"no installed package .* expected package://PACKAGE/PATH"):
        load_config(config(tmp_path, weights))


@pytest.mark.parametrize("damage", ["package://not_installed/a", None])
def test_one_damaged_codec_does_not_hide_the_others(package: Path, damage: str | None) -> None:
    if damage:
        config(package, damage)

    class Plugin:
        @hookimpl
        def obverse_components(self) -> list[Component]:
            return [Component("codec", "mine", "holds_weights:mine.yaml")]

    registry().add(Plugin(), "damaged")
    try:
        names = [found.name for found in installed_codecs()]
    finally:
        registry().remove("damaged")
    assert "pocket-vq" in names
    assert "mine" not in names
