"""Parts by name, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toys import toy_config, toy_hyper_config

from obverse.coders.raw import RawCoder
from obverse.config import CodecConfig, load_config
from obverse.errors import ConfigError, PluginError, UnknownNameError
from obverse.pipeline import build, check_fit, create
from obverse.priors import UniformPrior
from obverse.windows import Windowed
from obverse_registry import Component, hookimpl, registry


@pytest.fixture
def config(tmp_path: Path) -> CodecConfig:
    return load_config(toy_config(tmp_path))


class Bare(nn.Module, UniformPrior):
    """A part without a constructor of its own, and with a failing one."""

    def __init__(self, *args: Any, failure: str = "", **options: Any) -> None:
        nn.Module.__init__(self)
        UniformPrior.__init__(self, alphabets={"tokens": 16})
        if failure:
            raise {"lookup": IndexError("list index out of range"), "name": AttributeError("no such thing")}[failure]


class Plugin:
    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [
            Component("prior", "test-bare", f"{Bare.__module__}:Bare"),
            Component("prior", "test-coder", "obverse.coders.raw:RawCoder"),
            Component("prior", "test-nowhere", "obverse.priors:Nowhere"),
        ]


@pytest.fixture
def plugin() -> Iterator[None]:
    registry().add(Plugin(), "test-plugin")
    yield
    registry().remove("test-plugin")


def swapped(tmp_path: Path, *overrides: str, **parts: str) -> CodecConfig:
    return load_config(toy_config(tmp_path), parts=parts, overrides=overrides)


def test_parts_are_built(config: CodecConfig) -> None:
    pipeline = build(config)
    assert list(pipeline.modules) == ["encoder", "quantizer"]
    assert isinstance(pipeline.prior, UniformPrior)
    assert pipeline.grid_prior is pipeline.prior


def test_a_prior_with_a_window_is_slid(tmp_path: Path) -> None:
    pipeline = build(load_config(toy_config(tmp_path, prior="llama")))
    assert isinstance(pipeline.grid_prior, Windowed)
    assert list(pipeline.modules) == ["encoder", "quantizer", "prior"]


def test_what_other_parts_decide_need_not_be_given(config: CodecConfig, tmp_path: Path) -> None:
    assert build(config).prior.alphabets == {"tokens": 16}
    hyper = load_config(toy_hyper_config(tmp_path), parts={"quantizer": "rounding"})
    section = {key: value for key, value in hyper.parts["quantizer"].items() if key != "channels"}
    parts = {**hyper.parts, "quantizer": section}
    assert build(CodecConfig("x", parts)).quantizer.channels == {"y": 4, "z": 4}


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["quantizer.dim=5"], r"'pocket-conv' and quantizer 'unit-vector' do not fit.*'tokens': 4.*'tokens': 5"),
            (["prior.alphabets={tokens: 17}"], r"'tokens' has 16 symbols in the quantizer and 17 symbols in the prior"),
            (["prior.alphabets={y: 16}"], r"makes blocks \['tokens'\], the prior models \['y'\]"),
            (["prior.alphabet={tokens: 17}"], r"prior 'uniform': unknown key 'alphabet' did you mean 'alphabets'\?"),
            (["quantizer.sizes=3", "quantizer.dims=3"], r"unknown keys 'sizes' did you mean 'size'\?; 'dims'"),
            (["encoder.widths=wide"], "encoder 'pocket-conv' cannot be made from"),
            (["encoder.widths=[]"], "encoder 'pocket-conv' cannot be made from"),
            (["encoder.encoder_blocks=[0]"], "encoder 'pocket-conv' cannot be made from"),
            (["encoder.latent_channels=-4"], "encoder 'pocket-conv' cannot be made from"),
            (["quantizer.size=null"], "quantizer 'unit-vector' cannot be made from"),
        ],
    )
    def test_arguments(self, tmp_path: Path, overrides: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build(swapped(tmp_path, *overrides))

    def test_missing_arguments(self, tmp_path: Path) -> None:
        message = r"prior 'pocket-llama' needs \['vocabulary', 'dim', 'layers', 'heads', 'window'\]; set them"
        with pytest.raises(ConfigError, match=message):
            build(swapped(tmp_path, prior="pocket-llama"))

    def test_unknown_names(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="no prior named 'unifrom'; did you mean 'uniform'"):
            build(swapped(tmp_path, prior="unifrom"))

    def test_unbounded_integers_under_a_uniform_prior(self, tmp_path: Path) -> None:
        config = load_config(toy_hyper_config(tmp_path), parts={"prior": "uniform"})
        with pytest.raises(ConfigError, match=r"needs a finite alphabet, \['y', 'z'\] are unbounded"):
            build(config)

    def test_a_token_prior_for_unbounded_integers(self, tmp_path: Path) -> None:
        llama = ["vocabulary=16", "dim=16", "layers=1", "heads=2", "window=4"]
        overrides = [f"prior.{setting}" for setting in llama]
        config = load_config(toy_hyper_config(tmp_path), parts={"prior": "pocket-llama"}, overrides=overrides)
        with pytest.raises(ConfigError, match=r"makes blocks \['y', 'z'\], the prior models \['tokens'\]"):
            build(config)

    def test_strides(self, tmp_path: Path) -> None:
        config = load_config(toy_hyper_config(tmp_path))
        pipeline = build(config)
        pipeline.prior.stride = 8
        with pytest.raises(ConfigError, match="do not fit: stride 16 against 8"):
            check_fit(pipeline, config)

    def test_qualities(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="2 qualities against 3"):
            build(load_config(toy_hyper_config(tmp_path), overrides=["prior.qualities=3"]))
        too_many = ["prior.qualities=17", "encoder.qualities=17"]
        with pytest.raises(ConfigError, match="has 17 qualities, a stream can name 1 to 16"):
            build(load_config(toy_hyper_config(tmp_path), overrides=too_many))


@pytest.mark.usefixtures("plugin")
class TestForeignParts:
    def test_open_constructors_need_nothing(self) -> None:
        assert isinstance(create("prior", {"name": "test-bare"}), Bare)

    @pytest.mark.parametrize("failure", ["lookup", "name"])
    def test_failing_constructors_are_reported(self, failure: str) -> None:
        with pytest.raises(ConfigError, match="prior 'test-bare' cannot be made from"):
            create("prior", {"name": "test-bare", "failure": failure})

    def test_a_part_of_another_kind(self) -> None:
        with pytest.raises(ConfigError, match="prior 'test-coder' makes RawCoder, not a subclass of Prior"):
            create("prior", {"name": "test-coder"})

    def test_a_target_that_does_not_exist(self) -> None:
        with pytest.raises(PluginError, match="Nowhere"):
            create("prior", {"name": "test-nowhere"})


def test_coders_are_parts_too() -> None:
    assert isinstance(create("coder", {"name": "raw"}), RawCoder)
