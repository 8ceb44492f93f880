"""Protocols, datasets, names and the store of evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_evaluation
import toys

from obverse.errors import ConfigError, OutputError, PluginError, UnknownNameError, UnsupportedInputError
from obverse.evaluation.dataset import find_images
from obverse.evaluation.interfaces import Sample
from obverse.evaluation.learned import LearnedCodec
from obverse.evaluation.names import metric, subject
from obverse.evaluation.protocols import Protocol, protocol
from obverse.evaluation.store import Record, Store, read_features, write_features


@pytest.fixture
def toy_names() -> Iterator[None]:
    with toy_evaluation.installed():
        yield


class TestProtocols:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("vfm-codec", Protocol("vfm-codec", 512)),
            ("full", Protocol("full", None)),
            ("centre-96", Protocol("centre-96", 96)),
            ("crop=256", Protocol("centre-256", 256)),
        ],
    )
    def test_names(self, name: str, expected: Protocol) -> None:
        assert protocol(name) == expected

    @pytest.mark.parametrize("name", ["", "centre-0", "centre-", "crop=", "crop=1.5", "vfmcodec"])
    def test_other_names_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="no protocol"):
            protocol(name)
        with pytest.raises(ConfigError, match="did you mean 'vfm-codec'"):
            protocol("vfm-code")

    def test_the_centre_is_cut(self) -> None:
        pixels = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
        cut = protocol("crop=4").apply(pixels)
        assert cut.flags.c_contiguous
        assert np.array_equal(cut, pixels[1:5, 3:7])
        assert protocol("full").apply(pixels) is pixels
        with pytest.raises(UnsupportedInputError, match=r"10x7 pixels are less than the 8x8 of protocol 'centre-8'"):
            protocol("crop=8").apply(pixels)


class TestDatasets:
    def test_images_are_found_in_order(self, tmp_path: Path) -> None:
        toy_evaluation.write_images(tmp_path, 4)
        (tmp_path / "notes.txt").write_text("no image")
        found = find_images(tmp_path)
        assert found.files == ("01.png", "02.png", "more/00.png", "more/03.png")
        assert find_images(tmp_path, limit=3).files == found.files[:3]
        assert found.read("more/00.png").shape == (24, 24, 3)

    def test_the_hash_tells_lists_apart(self, tmp_path: Path) -> None:
        toy_evaluation.write_images(tmp_path, 3)
        whole = find_images(tmp_path)
        assert whole.hash == find_images(tmp_path).hash
        assert whole.hash != find_images(tmp_path, limit=2).hash
        (tmp_path / "01.png").rename(tmp_path / "04.png")
        assert whole.hash != find_images(tmp_path).hash
        assert whole.describe() | {"hash": ""} == {"name": tmp_path.name, "count": 3, "hash": "", "root": str(tmp_path)}

    def test_nothing_to_find(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedInputError, match="no images in"):
            find_images(tmp_path)
        with pytest.raises(UnsupportedInputError, match="is no folder"):
            find_images(tmp_path / "absent")


@pytest.mark.usefixtures("toy_names")
class TestNames:
    def test_codecs_before_anchors(self) -> None:
        assert isinstance(subject("pocket-vq"), LearnedCodec)
        assert isinstance(subject("levels"), toy_evaluation.Levels)

    def test_files_describe_codecs_and_programs(self, tmp_path: Path) -> None:
        learned = subject(str(toys.toy_config(tmp_path)))
        assert isinstance(learned, LearnedCodec)
        path = tmp_path / "copy.yaml"
        path.write_text(
            "anchor: {name: copy, encode: 'cp {input} {bitstream}', decode: 'cp {bitstream} {output}', qualities: [1]}"
        )
        programs = subject(str(path))
        assert programs.name == "copy"
        pixels = toys.picture(16, 24)
        assert np.array_equal(programs.trip(pixels, 1).pixels, pixels)

    def test_the_nearest_name_is_offered(self) -> None:
        with pytest.raises(UnknownNameError, match="no codec or anchor 'level'; did you mean 'levels'"):
            subject("level")
        with pytest.raises(UnknownNameError, match="did you mean 'pocket-hyper'"):
            subject("poket-hyper")
        with pytest.raises(UnknownNameError, match="no metric 'mean-eror'; did you mean 'mean-error'"):
            metric("mean-eror")

    def test_metrics_take_options(self) -> None:
        made = metric("mean-error", {"scale": 2.0})
        assert isinstance(made, toy_evaluation.MeanError)
        assert made.scale == 2.0
        with pytest.raises(ConfigError, match=r"metric 'mean-error'.* cannot be made with scales=2"):
            metric("mean-error", {"scales": 2})

    def test_what_cannot_run_says_why(self) -> None:
        with pytest.raises(PluginError, match="metric 'lacking' cannot run here: weights are missing"):
            metric("lacking")

    def test_qualities(self) -> None:
        levels = subject("levels")
        assert levels.parse_quality("4") == 4
        assert levels.parse_quality("8") == 8
        with pytest.raises(ConfigError, match=r"codec 'levels' has no quality 'x' \(qualities: 2, 4, 16\)"):
            levels.parse_quality("x")
        learned = subject("pocket-hyper")
        assert learned.parse_quality("8") == 8
        with pytest.raises(ConfigError, match="no quality '9'"):
            learned.parse_quality("9")


def sample(key: str, filename: str, **changes: object) -> Sample:
    facts = {"image": "i", "width": 8, "height": 8, "codec": "c", "fingerprint": "f", "quality": "1"}
    return Sample(key=key, filename=filename, **facts, protocol="full", bytes=9, bpp=1.125, **changes)  # type: ignore[arg-type]


class TestStore:
    def test_what_was_kept_is_found(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        record = Record(sample("k", "a.png", times={"encoding": 1.5}), {("m", "1"): 3.0, ("n", ""): None})
        store.append(record)
        for again in (store, Store(tmp_path), Store(tmp_path, rank=3)):
            assert again.find("k", "a.png") == record
            assert again.find("other", "a.png") is None

    def test_values_are_joined_whoever_wrote_them(self, tmp_path: Path) -> None:
        Store(tmp_path, 1).append(Record(sample("k", "a.png"), {("m", "1"): 3.0}))
        Store(tmp_path, 0).append(Record(sample("k", "a.png", picture="p.png"), {("n", "1"): 4.0}))
        found = Store(tmp_path).find("k", "a.png")
        assert found is not None
        assert found.values == {("m", "1"): 3.0, ("n", "1"): 4.0}
        assert found.sample.picture == "p.png"

    def test_images_with_the_same_pixels_share_a_record(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.append(Record(sample("k", "a.png", picture="p.png"), {}))
        found = store.find("k", "b.png")
        assert found is not None
        assert (found.sample.filename, found.sample.picture) == ("b.png", None)

    def test_a_line_that_was_not_finished_is_dropped(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.append(Record(sample("k", "a.png"), {}))
        store.append(Record(sample("l", "b.png"), {}))
        path = tmp_path / "parts" / "samples-0.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        other = Store(tmp_path, rank=1)  # reads it, but does not touch it
        assert (other.find("k", "a.png") is None, other.find("l", "b.png")) == (False, None)
        again = Store(tmp_path)
        again.append(Record(sample("m", "c.png"), {}))
        assert [json.loads(line)["sample"]["key"] for line in path.read_text().splitlines()] == ["k", "m"]

    def test_other_lines_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "samples-0.jsonl").write_text('{"key": 1}\n')
        with pytest.raises(OutputError, match="a line that is no sample"):
            Store(tmp_path)

    def test_features(self, tmp_path: Path) -> None:
        path = Store(tmp_path).features_path("fid", "1", "codec/1", "k" * 64)
        assert path != Store(tmp_path).features_path("fid", "2", "codec/1", "k" * 64)
        write_features(path, {"a": np.eye(2, dtype=np.float32)})
        assert np.array_equal(read_features(path)["a"], np.eye(2))
