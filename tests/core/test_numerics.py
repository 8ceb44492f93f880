"""Numerics modes: of a prior, and of the streams of a codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from miniatures import CODES, NextTokenPrior
from torch import Tensor, nn
from toys import LyingPrior, installed, picture, toy_config, toy_hyper_config

import obverse
from obverse import container
from obverse.codec import Codec, from_header
from obverse.distributions import Categorical, IntegerGaussian
from obverse.errors import ConfigError, CorruptError, DivergedError, UnsupportedInputError, WrongNumericsError
from obverse.guarded import GuardedCategorical, GuardedGaussian
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.numerics import MODES, NUMBERS, UnsupportedModeError, environment, prepare
from obverse.priors import UniformPrior
from obverse.testing import PriorContract, check_roundtrip
from obverse.threads import threads

CPU = torch.device("cpu")


class NetworkPrior(Prior, nn.Module):
    """The token before decides, through a linear layer."""

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"tokens": CODES}
        self.embedding, self.output = nn.Embedding(CODES + 1, 4), nn.Linear(4, CODES)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        before = torch.full((layout.batch, 1), CODES)
        for t in range(layout.height * layout.width):
            logits = self.output(self.embedding(before))
            before = yield Block("tokens", self.categorical(logits), torch.tensor([t]))


class FloatPrior(NetworkPrior):
    """The same without an exact form, and published in another dtype."""

    exact: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.bfloat16


class TestNetworkPrior(PriorContract):
    def make(self) -> Prior:
        return NetworkPrior()


class TestFloatPrior(PriorContract):
    def make(self) -> Prior:
        return FloatPrior()


class TestPrepare:
    def test_the_default_is_the_first_mode_that_the_prior_has(self) -> None:
        for prior, mode in (
            (NetworkPrior(), "exact"),
            (FloatPrior(), "guarded64"),
            (NextTokenPrior(), "exact"),
            (UniformPrior(alphabets={"tokens": 4}), "exact"),
        ):
            assert prepare(prior).numerics == mode

    def test_a_prior_that_nobody_prepared_is_guarded(self) -> None:
        assert NetworkPrior().numerics == "guarded64"

    def test_dtypes(self) -> None:
        for make, mode, dtype in (
            (NetworkPrior, "guarded64", torch.float64),
            (NetworkPrior, "native", torch.float32),
            (FloatPrior, "native", torch.bfloat16),
        ):
            prior = make()
            assert prepare(prior, mode) is prior
            assert {parameter.dtype for parameter in prior.parameters()} == {dtype}
            assert prior.arithmetic == dtype

    def test_the_exact_form_is_a_copy(self) -> None:
        prior = NetworkPrior()
        exact = prepare(prior, "exact")
        assert isinstance(exact, NetworkPrior)
        assert type(exact.output) is not nn.Linear
        assert type(prior.output) is nn.Linear
        assert (exact.numerics, prior.numerics) == ("exact", "guarded64")
        block = next(exact.blocks(Layout(1, 1, 1), Condition()))
        assert isinstance(block.distribution, Categorical)

    def test_without_weights_nothing_is_converted(self) -> None:
        for mode in MODES:
            prior = NextTokenPrior()
            assert prepare(prior, mode) is prior
            assert prior.numerics == mode

    def test_exact_needs_an_exact_form(self) -> None:
        message = "prior FloatPrior has no exact form: its numerics modes are guarded64 and native"
        with pytest.raises(UnsupportedModeError, match=message):
            prepare(FloatPrior(), "exact")

    @pytest.mark.parametrize(("name", "hint"), [("exakt", "; did you mean 'exact'?"), ("double", ""), ("", "")])
    def test_names_are_checked(self, name: str, hint: str) -> None:
        with pytest.raises(ConfigError) as caught:
            prepare(NetworkPrior(), name)
        assert str(caught.value) == f"no numerics mode {name!r}{hint} (modes: exact, guarded64, native)"


@pytest.mark.parametrize("mode", MODES)
def test_distributions_of_a_mode(mode: str) -> None:
    prior = prepare(UniformPrior(alphabets={"tokens": 3}), mode)
    logits, scale = torch.tensor([[[0.06, 1.0, -3.3]]]), torch.tensor([[0.5, 300.0]])
    if mode == "guarded64":
        guarded = prior.categorical(logits.double())
        assert isinstance(guarded, GuardedCategorical)
        assert torch.equal(guarded.values, logits.double())
        assert isinstance(prior.gaussian(scale.double()), GuardedGaussian)
        with pytest.raises(TypeError, match=r"need float64 values, got torch\.float32"):
            prior.gaussian(scale)
        return
    for dtype in (torch.float64, torch.float32, torch.float16):
        rounded, table = prior.categorical(logits.to(dtype)), prior.gaussian(scale.to(dtype))
        assert isinstance(rounded, Categorical)
        assert rounded.logits.tolist() == [[[0, 8, -26]]]
        assert isinstance(table, IntegerGaussian)
        assert table.indices.tolist() == [[12, 63]]


class TestEnvironment:
    def test_it_is_short_and_names_what_matters(self) -> None:
        here = environment(CPU)
        assert len(here.encode()) <= 200
        assert here == environment(CPU)
        assert f"torch {torch.__version__}, " in here
        assert f", {torch.get_num_threads()} threads, " in here
        assert here.endswith(", cpu")

    def test_threads_and_settings_change_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = {environment(CPU)}
        with threads(torch.get_num_threads() + 1):
            found.add(environment(CPU))
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        found.add(environment(CPU))
        assert len(found) == 3


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("numerics")
    return {
        "uniform": toy_config(folder, name="uniform-toy"),
        "llama": toy_config(folder, name="llama-toy", prior="llama"),
        "hyper": toy_hyper_config(folder, name="hyper-toy"),
    }


@pytest.fixture(scope="module")
def codecs(paths: dict[str, Path]) -> dict[tuple[str, str], Codec]:
    return {(kind, mode): obverse.load(path, numerics=mode) for kind, path in paths.items() for mode in MODES}


PICTURE = picture(100, 70)
KINDS = ["uniform", "llama", "hyper"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
class TestStreams:
    def test_round_trip(self, codecs: dict[tuple[str, str], Codec], kind: str, mode: str) -> None:
        codec = codecs[kind, mode]
        assert codec.numerics == mode
        data = codec.compress(PICTURE)
        header = container.unpack(data).header
        rules = 2 if kind == "hyper" else 1
        assert (header.numerics, header.specification, header.mode()) == (NUMBERS[mode], rules, mode)
        assert header.chunks == ({"environment": environment(CPU).encode()} if mode == "native" else {})
        assert codec.decompress(data).size == (100, 70)
        assert codec.compress(PICTURE, verify=True) == data
        if mode != "native":
            check_roundtrip(codec, PICTURE)

    def test_lists_equal_single_images(self, codecs: dict[tuple[str, str], Codec], kind: str, mode: str) -> None:
        codec, images = codecs[kind, mode], [picture(40, 30, seed) for seed in range(3)]
        assert codec.compress(images, verify=True) == [codec.compress(image) for image in images]

    def test_other_modes_are_refused(self, codecs: dict[tuple[str, str], Codec], kind: str, mode: str) -> None:
        data = codecs[kind, mode].compress(PICTURE)
        for other in set(MODES) - {mode}:
            message = f"written in numerics mode '{mode}', codec '{kind}-toy' is loaded in '{other}'.*numerics='{mode}'"
            with pytest.raises(WrongNumericsError, match=message):
                codecs[kind, other].decompress(data)

    def test_a_relabelled_stream_is_noticed(self, codecs: dict[tuple[str, str], Codec], kind: str, mode: str) -> None:
        """Where the symbols would be the same as well, as for the uniform prior."""
        stream = container.unpack(codecs[kind, mode].compress(PICTURE))
        for other in set(MODES) - {mode}:
            chunks = {"environment": environment(CPU).encode()} if other == "native" else {}
            header = replace(stream.header, numerics=NUMBERS[other], chunks=chunks)
            with pytest.raises(DivergedError):
                codecs[kind, other].decompress(container.pack(header, stream.payload, stream.symbol_check))


def test_pictures_do_not_depend_on_the_mode(codecs: dict[tuple[str, str], Codec]) -> None:
    """The symbols of a tokenizer are those of the picture, whatever the prior makes of them."""
    pictures = [codecs["llama", mode].reconstruct(PICTURE).image.tobytes() for mode in MODES]
    assert len(set(pictures)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_streams_find_their_mode(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "named_modes"
    folder.mkdir()
    path = toy_config(folder, name="mode-toy", prior="llama")
    with installed(path):
        data = obverse.load("mode-toy", numerics=mode).compress(PICTURE)
        assert obverse.decompress(data).size == (100, 70)


def test_a_mode_that_the_codec_does_not_have(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    codec = obverse.load(paths["uniform"])
    header = container.unpack(codec.compress(PICTURE)).header
    monkeypatch.setattr(UniformPrior, "exact", False)
    assert obverse.load(paths["uniform"]).numerics == "guarded64"
    with pytest.raises(ConfigError, match="prior UniformPrior has no exact form"):
        obverse.load(paths["uniform"], numerics="exact")
    with pytest.raises(CorruptError, match="a numerics mode that its codec does not have: prior UniformPrior has no"):
        from_header(header, codec.config)


class TestNative:
    def test_another_environment_is_refused(self, codecs: dict[tuple[str, str], Codec]) -> None:
        codec, here = codecs["llama", "native"], torch.get_num_threads()
        data = codec.compress(PICTURE)
        with threads(here + 1), pytest.raises(WrongNumericsError) as caught:
            codec.decompress(data)
        for count in (here, here + 1):
            assert f"{count} threads" in str(caught.value)
        assert codec.decompress(data).size == (100, 70)

    def test_what_a_stream_tells_is_shown_harmlessly(self, codecs: dict[tuple[str, str], Codec]) -> None:
        codec = codecs["uniform", "native"]
        stream = container.unpack(codec.compress(PICTURE))
        header = replace(stream.header, chunks={"environment": b"\x1b[31mred\xff\n"})
        with pytest.raises(WrongNumericsError, match=r"'\\x1b\[31mred\N{REPLACEMENT CHARACTER}\\n'"):
            codec.decompress(container.pack(header, stream.payload, stream.symbol_check))

    def test_nothing_runs_in_parallel(
        self, codecs: dict[tuple[str, str], Codec], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[int] = []
        codec = codecs["llama", "native"]
        kind = type(codec.pipeline.prior)
        blocks = kind.blocks

        def watched(self: Prior, layout: Layout, condition: Condition) -> Blocks:
            batches.append(layout.batch)
            return blocks(self, layout, condition)  # type: ignore[arg-type]

        def forbidden(self: Prior, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
            raise AssertionError("a decoder could not do that")

        monkeypatch.setattr(kind, "blocks", watched)
        monkeypatch.setattr(kind, "teacher_forced", forbidden)
        codec.compress([picture(30, 30), picture(30, 30, 1)])
        assert batches == [1] * 4, "each picture is encoded and decoded"

    def test_a_failing_trial_returns_nothing(self, paths: dict[str, Path]) -> None:
        codec = obverse.load(paths["uniform"], numerics="native")
        codec.pipeline.prior = LyingPrior(alphabets={"tokens": 16})
        message = "does not decode to what was encoded.*in numerics mode 'native'; no stream is returned"
        with pytest.raises(DivergedError, match=message):
            codec.compress(PICTURE)

    def test_the_environment_is_not_given_by_hand(self, codecs: dict[tuple[str, str], Codec]) -> None:
        for mode in MODES:
            with pytest.raises(UnsupportedInputError, match="tell their environment themselves"):
                codecs["uniform", mode].compress(PICTURE, chunks={"environment": b"mine"})

    def test_other_metadata_is_kept(self, codecs: dict[tuple[str, str], Codec]) -> None:
        data = codecs["uniform", "native"].compress(PICTURE, chunks={"name": b"uniform-toy"})
        assert set(container.unpack(data).header.chunks) == {"name", "environment"}

    def test_rates_and_drawings(self, codecs: dict[tuple[str, str], Codec]) -> None:
        codec = codecs["llama", "native"]
        assert codec.rate(PICTURE).bits == pytest.approx(codecs["llama", "exact"].rate(PICTURE).bits, rel=1e-2)
        first, again = (codec.generate(size=(40, 30), seed=3)[0] for _ in range(2))
        assert np.array_equal(np.asarray(first), np.asarray(again))


class TestVerify:
    def test_numbers_that_change_are_found(self, paths: dict[str, Path]) -> None:
        codec = obverse.load(paths["uniform"])
        codec.pipeline.prior = LyingPrior(alphabets={"tokens": 16})
        assert codec.compress(PICTURE)
        with pytest.raises(DivergedError, match=r"does not decode to what was encoded.*'exact'"):
            codec.compress([PICTURE, PICTURE], verify=True)

    def test_symbols_are_compared_and_not_their_checksum_alone(
        self, codecs: dict[tuple[str, str], Codec], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codec = codecs["llama", "guarded64"]
        decode = codec._decode

        def other(stream: container.Stream) -> object:
            coded, layout = decode(stream)
            return [replace(coded[0], symbols=coded[0].symbols ^ 1), *coded[1:]], layout

        monkeypatch.setattr(codec, "_decode", other)
        with pytest.raises(DivergedError, match="does not decode to what was encoded"):
            codec.compress(PICTURE, verify=True)

    def test_it_changes_no_byte(self, codecs: dict[tuple[str, str], Codec]) -> None:
        codec, images = codecs["hyper", "exact"], [picture(40, 30, seed) for seed in range(2)]
        assert codec.compress(images, verify=True, quality=2) == codec.compress(images, quality=2)


def test_streams_of_other_rules_are_refused(codecs: dict[tuple[str, str], Codec]) -> None:
    codec = codecs["hyper", "exact"]
    stream = container.unpack(codec.compress(PICTURE))
    older = replace(stream.header, specification=1)
    data = container.pack(older, stream.payload, stream.symbol_check)
    with pytest.raises(WrongNumericsError, match=r"version 1 of the rules .* follows version 2"):
        codec.decompress(data)
