"""Codecs of this program as subjects of evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import toys

import obverse
from obverse import container
from obverse.errors import WeightsError
from obverse.evaluation.learned import LearnedCodec, fixed_bits, symbol_counts
from obverse.hub import HubFile
from obverse.interfaces import Condition


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("toys")
    return {
        "llama": toys.toy_config(folder, name="llama", prior="llama", quantizer_size=13),
        "hyper": toys.toy_hyper_config(folder),
        "family": toys.toy_family_config(folder),
    }


@pytest.mark.parametrize(("name", "quality"), [("llama", 1), ("hyper", 1), ("hyper", 2)])
def test_a_trip_is_that_of_the_codec(configs: dict[str, Path], name: str, quality: int) -> None:
    pixels = toys.picture(50, 40)
    codec, subject = obverse.load(configs[name]), LearnedCodec(source=configs[name])
    trip = subject.trip(pixels, quality)
    data = codec.compress(pixels, quality=quality)
    assert trip.file_bytes == len(data)
    assert trip.payload_bytes == len(container.unpack(data).payload) < len(data)
    assert trip.estimated_bits == codec.rate(pixels, quality=quality).bits
    assert np.array_equal(trip.pixels, np.asarray(codec.decompress(data)))
    if name == "llama":
        assert trip.token_counts is not None
        [counts] = trip.token_counts.values()
        tokens = codec.pipeline.quantizer.symbols(codec.canvas.analyse([pixels], codec.condition(quality)))
        assert counts.tolist() == np.bincount(tokens["tokens"].flatten().numpy(), minlength=13).tolist()
    else:
        assert trip.token_counts is None
    assert trip.coder_encoding_seconds is not None
    assert trip.coder_decoding_seconds is not None
    assert 0 < trip.coder_encoding_seconds < trip.encoding_seconds
    assert 0 < trip.coder_decoding_seconds < trip.decoding_seconds


def test_fixed_length_codes(configs: dict[str, Path]) -> None:
    pixels = toys.picture(50, 40)  # 4x3 cells
    tokens = LearnedCodec(source=configs["llama"]).trip(pixels, 1)
    assert tokens.fixed_bits == 12 * math.ceil(math.log2(13))
    assert LearnedCodec(source=configs["hyper"]).trip(pixels, 1).fixed_bits is None


@pytest.mark.parametrize("quality", [1, 10])
def test_scales_that_are_not_coded_are_not_counted(quality: int) -> None:
    from obverse.canvas import Canvas
    from obverse.config import load_config
    from obverse.pipeline import build_hollow

    pipeline = build_hollow(load_config("var-vae", quality=quality))
    canvas = Canvas(pipeline.encoder, None)  # type: ignore[arg-type]
    stages = pipeline.quantizer.stages
    condition = Condition(quality - 1)
    counts = symbol_counts(pipeline, canvas, condition, 256, 256)
    assert counts == {"tokens": stages[len(stages) - pipeline.encoder.qualities + quality - 1]}
    assert fixed_bits(pipeline, canvas, condition, 256, 256) == counts["tokens"] * 12


def test_a_family_has_one_network_in_memory(configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = LearnedCodec(source=configs["family"])
    made: list[int | None] = []
    load = obverse.codec.from_config
    monkeypatch.setattr(
        "obverse.codec.from_config", lambda config, *rest: made.append(config.quality) or load(config, *rest)
    )
    pixels = toys.picture(32, 32)
    assert list(subject.qualities) == [1, 2, 3]
    fixed = [subject.trip(pixels, quality).fixed_bits for quality in (1, 1, 2, 3)]
    assert fixed == [4 * 2, 4 * 2, 4 * 4, 4 * 6]
    assert made == [1, 2, 3]


def test_fingerprints(configs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, quality: int = 1, **options: object) -> str:
        return LearnedCodec(source=configs[name], **options).fingerprint_of(quality)  # type: ignore[arg-type]

    assert found("llama") == found("llama", numerics="exact")
    kinds = [
        found("llama"),
        found("llama", numerics="guarded64"),
        found("hyper"),
        *(found("family", q) for q in (1, 2)),
    ]
    kinds.append(found("llama", numerics="native"))
    assert len(set(kinds)) == 6
    assert found("hyper", 1) == found("hyper", 2)
    monkeypatch.setattr("obverse.evaluation.learned.__version__", "99")
    assert found("llama") != kinds[0]


def test_weights_that_are_missing(tmp_path: Path) -> None:
    path = toys.toy_family_config(tmp_path)
    (tmp_path / "toy-family-2.safetensors").unlink()
    subject = LearnedCodec(source=path)
    assert subject.missing() is None
    assert subject.fingerprint_of(1)
    with pytest.raises(WeightsError):
        subject.fingerprint_of(2)
    assert len(subject.fingerprint) == 16
    assert [entry["file"] for entry in subject.describe()["weights"]] == [
        "toy-family-1.safetensors",
        "toy-family-3.safetensors",
    ]
    for number in (1, 3):
        (tmp_path / f"toy-family-{number}.safetensors").unlink()
    reason = LearnedCodec(source=path).missing() or ""
    for told in ("toy-family-1.safetensors", "https://example.org/1", "the same for qualities 2, 3 "):
        assert told in reason
    assert "\n" not in reason


def test_a_family_whose_checkpoints_name_no_weights(tmp_path: Path) -> None:
    path = toys.toy_family_config(tmp_path)
    text = path.read_text(encoding="utf-8")
    partly = "".join(line for line in text.splitlines(True) if "toy-family-2.safetensors" not in line)
    path.write_text(partly, encoding="utf-8")
    subject = LearnedCodec(source=path)
    assert subject.missing() is None
    able, reason = subject.available([1, 2])
    assert able == [1]
    assert reason == (
        "codec 'toy-family' at quality 2 has no weights; name their files with --weights; "
        "the official files: https://example.org/2"
    )
    assert subject.available([1, 3]) == ([1, 3], None)
    with pytest.raises(WeightsError, match="at quality 2 has no weights"):
        subject.fingerprint_of(2)
    path.write_text("".join(line for line in text.splitlines(True) if ".safetensors" not in line), encoding="utf-8")
    none = LearnedCodec(source=path)
    assert none.available([1, 2])[0] == []
    assert "at quality 1 has no weights" in (none.missing() or "")


def test_only_weights_that_are_measured_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toys.toy_family_config(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("toy-family-2.safetensors", "hf://toys/family/2.safetensors@1a2b"), encoding="utf-8")
    fetched: list[HubFile] = []
    monkeypatch.setattr(
        HubFile, "_download", lambda file: fetched.append(file) or tmp_path / "toy-family-2.safetensors"
    )
    subject = LearnedCodec(source=path)
    assert subject.available(subject.qualities) == (subject.qualities, None)
    assert subject.fingerprint_of(1)
    assert subject.fingerprint
    assert fetched == []
    with pytest.raises(WeightsError):  # it was fetched, and is not in the hub's cache
        subject.fingerprint_of(2)
    assert len(fetched) == 1


def test_description(configs: dict[str, Path]) -> None:
    told = LearnedCodec(source=configs["llama"]).describe()
    assert (told["codebook"], told["tokens"], told["numerics"], told["licence"]) == (13, 256, "exact", None)
    assert told["parts"]["prior"]["name"] == "pocket-llama"
    assert len(told["weights"][0]["sha256"]) == 64
    told = LearnedCodec(source="pocket-hyper").describe()
    assert (told["codebook"], told["tokens"], told["licence"]) == (None, None, "Apache-2.0")
    assert told["parameters"] > 1e6
