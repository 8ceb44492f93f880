"""Codecs with one checkpoint per quality, and the highest quality that fits."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from toys import installed, picture, toy_config, toy_family_config, toy_hyper_config

import obverse
from obverse import container
from obverse.codec import from_config, from_header
from obverse.config import load_config
from obverse.errors import ConfigError, RateError, WeightsError, WrongWeightsError
from obverse.identity import find_config
from obverse.quality_search import highest_within
from obverse.testing import check_roundtrip

IMAGE = picture(100, 70)  # 7x5 tokens
SIZES = 16, 64, 256


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_family_config(tmp_path_factory.mktemp("family"), prior="llama", sizes=SIZES)


@pytest.fixture
def family(path: Path) -> Iterator[str]:
    """Its name, while it is installed."""
    with installed(path):
        yield "toy-family"


@pytest.fixture
def own(tmp_path: Path, path: Path) -> Path:
    """A configuration to change; its weights are not beside it."""
    changed = tmp_path / "own.yaml"
    changed.write_text(path.read_text())
    return changed


def rewritten(path: Path, **changes: object) -> Path:
    body = OmegaConf.load(path)
    OmegaConf.save(OmegaConf.merge(body, {k: v for k, v in changes.items() if v is not None}), path)
    return path


class TestConfig:
    def test_a_quality_is_chosen(self, path: Path) -> None:
        for quality, size in enumerate(SIZES, 1):
            config = load_config(path, quality=quality)
            assert (config.name, config.quality, config.qualities) == ("toy-family", quality, 3)
            assert (config.parts["quantizer"]["size"], config.parts["prior"]["vocabulary"]) == (size, size)
            assert config.parts["quantizer"]["dim"] == 4, "what all have in common"
            assert config.weights == (path.parent / f"toy-family-{quality}.safetensors",)
            assert config.source == f"https://example.org/{quality}"
        assert load_config(path) == load_config(path, quality=2), "the middle one"

    def test_checkpoints_have_fingerprints_of_their_own(self, path: Path) -> None:
        configs = [load_config(path, quality=quality) for quality in (1, 2, 3)]
        assert len({config.fingerprint() for config in configs}) == 3
        assert len({config.tag() for config in configs}) == 1
        alone = load_config(path.parent / "toy-family-2.yaml")
        assert configs[1].fingerprint() == alone.fingerprint(), "that of parts and weights"

    def test_from_one_checkpoint_to_another(self, path: Path) -> None:
        config = pickle.loads(pickle.dumps(load_config(path, parts={"coder": "raw"}, overrides=["quantizer.dim=4"])))
        other = config.at(3)
        assert other == load_config(path, quality=3, parts={"coder": "raw"})
        assert other.at(3) is other
        with pytest.raises(ConfigError, match="quality 4 does not exist: codec 'toy-family' has qualities 1 to 3"):
            config.at(4)
        with pytest.raises(ConfigError, match="codec 'toy-family-1' knows no configuration of quality 2"):
            load_config(path.parent / "toy-family-1.yaml").at(2)

    def test_what_the_caller_changes_wins(self, path: Path) -> None:
        config = load_config(path, quality=1, overrides=["quantizer.size=8"], weights=["a.st"])
        assert (config.parts["quantizer"]["size"], [file.name for file in config.weights]) == (8, ["a.st"])
        assert [file.name for file in config.at(2).weights] == ["a.st"]

    def test_a_resolved_configuration_is_that_of_one_checkpoint(self, path: Path, tmp_path: Path) -> None:
        config = load_config(path, quality=3)
        written = tmp_path / "resolved.yaml"
        written.write_text(config.to_yaml())
        assert load_config(written) == load_config(written, quality=3) == config
        with pytest.raises(ConfigError, match=r"resolved\.yaml describes only quality 3 of 3, not 1"):
            load_config(written, quality=1)

    def test_a_file_may_name_its_default(self, own: Path) -> None:
        assert load_config(rewritten(own, quality=3)).quality == 3
        assert load_config(own, quality=1).quality == 1

    @pytest.mark.parametrize("bad", [0, 4, 17])
    def test_qualities_that_do_not_exist(self, path: Path, bad: int) -> None:
        with pytest.raises(ConfigError, match=f"quality {bad} does not exist: codec 'toy-family' has qualities 1 to 3"):
            load_config(path, quality=bad)

    @pytest.mark.parametrize(
        ("qualities", "message"),
        [
            ("[]", "a list of 1 to 16 mappings"),
            ("8", "a list of 1 to 16 mappings"),
            ("{a: 1}", "a list of 1 to 16 mappings"),
            ("[{}, 3]", "a list of 1 to 16 mappings"),
            (str([{}] * 17), "a list of 1 to 16 mappings"),
            ("[{}, {encodr: 1}]", "quality 2: unknown key 'encodr' did you mean 'encoder'"),
            ("[{name: x}]", "quality 1: unknown key 'name'"),
            ("[{qualities: []}]", "quality 1: unknown key 'qualities'"),
            ("[{encoder: [1]}]", "own.yaml"),
            ("[{encoder: null}]", "missing ..encoder"),
        ],
    )
    def test_lists_that_are_none(self, own: Path, qualities: str, message: str) -> None:
        text = own.read_text()
        own.write_text(text[: text.index("qualities:")] + f"qualities: {qualities}\n")
        with pytest.raises(ConfigError, match=message):
            load_config(own)

    @pytest.mark.parametrize("given", ["0", "x", "true", "1.5"])
    def test_a_default_that_is_none(self, own: Path, given: str) -> None:
        own.write_text(own.read_text() + f"quality: {given}\n")
        with pytest.raises(ConfigError, match="quality takes a number from 1, not"):
            load_config(own)

    def test_parts_may_be_missing_from_what_all_have(self, own: Path) -> None:
        body = OmegaConf.load(own)
        coder = body.pop("coder")
        for entry in body.qualities:
            entry.coder = coder.name
        OmegaConf.save(body, own)
        assert load_config(own).parts["coder"] == {"name": "range"}

    def test_one_network_with_several_qualities_is_no_checkpoint(self, tmp_path: Path) -> None:
        hyper = rewritten(toy_hyper_config(tmp_path), qualities=[{}, {}])
        with pytest.raises(ConfigError, match="has 2 qualities in one network, codec 'toy-hyper' has a checkpoint for"):
            obverse.load(hyper)


class TestCodec:
    @pytest.mark.parametrize("quality", [1, 2, 3])
    def test_round_trip(self, path: Path, quality: int) -> None:
        codec = obverse.load(path, quality=quality)
        assert (codec.qualities, codec.config.quality) == (3, quality)
        data = check_roundtrip(codec, IMAGE, quality=quality)
        assert data == codec.compress(IMAGE), "no need to name it again"
        assert container.unpack(data).header.quality == quality - 1
        assert codec.condition(quality).quality == 0, "each network knows one"

    def test_another_quality_has_to_be_loaded(self, path: Path) -> None:
        codec = obverse.load(path)
        for call in (codec.compress, codec.rate, codec.reconstruct):
            with pytest.raises(ConfigError, match=r"quality 3 .* own checkpoint.*load\('toy-family', quality=3\)"):
                call(IMAGE, quality=3)
        with pytest.raises(ConfigError, match="quality 4 does not exist"):
            codec.compress(IMAGE, quality=4)

    def test_decoding_needs_no_quality(self, family: str) -> None:
        for quality in (1, 2, 3):
            codec = obverse.load(family, quality=quality)
            data = codec.compress(IMAGE)
            header = container.unpack(data).header
            assert find_config(header).quality == quality
            expected = np.asarray(codec.decompress(data))
            assert np.array_equal(np.asarray(obverse.decompress(data)), expected)
            named = from_header(header, load_config(family, quality=1))
            assert np.array_equal(np.asarray(named.decompress(data)), expected)

    def test_the_codec_of_another_checkpoint_refuses(self, family: str) -> None:
        data = obverse.load(family, quality=3).compress(IMAGE)
        with pytest.raises(
            WrongWeightsError, match="checkpoint of quality 3, this is codec 'toy-family' at quality 1 of 3"
        ):
            obverse.load(family, quality=1).decompress(data)

    def test_a_stream_that_names_another_checkpoint(self, family: str) -> None:
        stream = container.unpack(obverse.load(family, quality=2).compress(IMAGE))
        for quality, message in ((0, "other weights"), (5, "checkpoint of quality 6, this is")):
            header = replace(stream.header, quality=quality)
            data = container.pack(header, stream.payload, stream.symbol_check)
            with pytest.raises(WrongWeightsError, match=message):
                obverse.decompress(data)

    def test_weights_of_the_caller(self, path: Path) -> None:
        codec = obverse.load(path, quality=3, weights=[path.parent / "toy-family-3.safetensors"])
        assert codec.compress(IMAGE) == obverse.load(path, quality=3).compress(IMAGE)
        with pytest.raises(WeightsError, match=r"at quality 2"):
            obverse.load(path, quality=2, weights=[path.parent / "toy-family-3.safetensors"])

    def test_missing_weights(self, own: Path) -> None:
        message = (
            r"toy-family-3\.safetensors' cannot be read: No such file .*\(codec 'toy-family' at quality 3\); "
            r"the official files: https://example\.org/3"
        )
        with pytest.raises(WeightsError, match=message):
            obverse.load(own, quality=3)
        body = OmegaConf.load(own)
        del body.qualities[0].weights
        OmegaConf.save(body, own)
        with pytest.raises(
            WeightsError, match=r"codec 'toy-family' at quality 1 has no weights; name .*example\.org/1"
        ):
            obverse.load(own, quality=1)

    def test_missing_weights_of_a_stream(self, path: Path, own: Path) -> None:
        data = obverse.load(path, quality=3).compress(IMAGE)
        with pytest.raises(WeightsError, match=r"toy-family-3.*\(codec 'toy-family' at quality 3\).*example\.org/3"):
            from_header(container.unpack(data).header, load_config(own))


class TestOneNetwork:
    def test_a_quality_for_all_pictures(self, tmp_path: Path) -> None:
        path = toy_hyper_config(tmp_path)
        plain = obverse.load(path)
        assert plain.config.quality is None
        for quality in (1, 2):
            codec = obverse.load(path, quality=quality)
            assert codec.compress(IMAGE) == plain.compress(IMAGE, quality=quality)
            assert codec.compress(IMAGE, quality=2) == plain.compress(IMAGE, quality=2)
            assert codec.fingerprint == plain.fingerprint
        for bad in (0, 3):
            with pytest.raises(
                ConfigError, match=f"quality {bad} does not exist: codec 'toy-hyper' has qualities 1 to"
            ):
                obverse.load(path, quality=bad)

    def test_the_highest_quality_that_fits(self, tmp_path: Path) -> None:
        codec = obverse.load(toy_hyper_config(tmp_path))
        streams = sorted((codec.compress(IMAGE, quality=quality) for quality in (1, 2)), key=len)
        small, large = map(len, streams)
        assert small < large, "otherwise nothing is tested"
        for limit in (small, large, large + 99):
            data = codec.compress(IMAGE, max_bytes=limit, verify=True)
            assert len(data) <= limit
            assert data == obverse.compress_within(IMAGE, limit, tmp_path / "toy-hyper.yaml")
            codec.decompress(data)
        with pytest.raises(RateError, match=f"does not fit in {small - 1} bytes: the smallest size reached is"):
            codec.compress(IMAGE, max_bytes=small - 1)

    def test_a_quality_that_was_asked_for_stays(self, tmp_path: Path) -> None:
        path = toy_hyper_config(tmp_path)
        large, streams = obverse.load(path), {}
        for quality in (1, 2):
            streams[quality] = large.compress(IMAGE, quality=quality)
            limit = len(streams[quality])
            assert large.compress(IMAGE, quality=quality, max_bytes=limit) == streams[quality]
            with pytest.raises(RateError):
                obverse.load(path, quality=quality).compress(IMAGE, max_bytes=limit - 1)


class TestWithin:
    def test_the_highest_quality_that_fits(self, path: Path) -> None:
        streams = [obverse.load(path, quality=quality).compress(IMAGE) for quality in (1, 2, 3)]
        sizes = [len(data) for data in streams]
        assert sizes == sorted(set(sizes))
        for number, data in enumerate(streams):
            assert obverse.compress_within(IMAGE, sizes[number], path) == data
            if number:
                assert obverse.compress_within(IMAGE, sizes[number] - 1, path) == streams[number - 1]

    def test_cheaper_tokens_below_the_lowest(self, path: Path) -> None:
        lowest = obverse.load(path, quality=1)
        plain, strongest = lowest.compress(IMAGE), lowest.compress(IMAGE, rd_lambda=0.0)
        assert len(strongest) < len(plain)
        data = obverse.compress_within(IMAGE, len(plain) - 1, path, verify=True)
        assert len(data) < len(plain)
        assert container.unpack(data).header.quality == 0
        with pytest.raises(RateError, match="does not fit in 9 bytes"):
            obverse.compress_within(IMAGE, 9, path)

    def test_codecs_with_one_quality(self, tmp_path: Path) -> None:
        path = toy_config(tmp_path)
        data = obverse.load(path).compress(IMAGE)
        assert obverse.compress_within(IMAGE, len(data), path) == data

    def test_few_networks_are_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = toy_family_config(tmp_path, sizes=[2**bits for bits in range(1, 9)])
        loaded: list[int | None] = []
        monkeypatch.setattr(
            "obverse.codec.from_config", lambda config, *a: loaded.append(config.quality) or from_config(config, *a)
        )
        for limit in (10_000, 45, 30):
            loaded.clear()
            assert len(obverse.compress_within(IMAGE, limit, path)) <= limit
            assert len(set(loaded)) == len(loaded) <= 4


class TestSearch:
    @pytest.mark.parametrize("count", range(1, 17))
    def test_every_limit(self, count: int) -> None:
        for limit in range(0, 10 * count + 10, 5):
            made: list[int] = []
            fits = [quality for quality in range(1, count + 1) if 10 * quality <= limit]

            def make(quality: int, made: list[int] = made) -> int:
                made.append(quality)
                return 10 * quality

            if fits:
                assert highest_within(make, int, limit, range(1, count + 1)) == 10 * fits[-1]
            else:
                with pytest.raises(RateError, match=f"fit in {limit} bytes: the smallest size reached is 10 bytes"):
                    highest_within(make, int, limit, range(1, count + 1))
            assert len(made) == len(set(made)) <= (4 if count < 16 else 5)

    def test_sizes_that_do_not_rise(self) -> None:
        sizes = [50, 20, 90, 10, 70, 30, 80, 60]
        for limit in range(10, 100, 10):
            try:
                assert highest_within(lambda quality: sizes[quality], int, limit, range(8)) <= limit
            except RateError:
                assert limit < max(sizes)
