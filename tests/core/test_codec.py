"""What a codec does, with small codecs of random weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from miniatures import NextTokenPrior, NextTokenQuantizer
from PIL import Image
from toys import LyingPrior, installed, toy_class_config, toy_config, toy_hyper_config

import obverse
from obverse import container
from obverse.codec import Codec
from obverse.errors import (
    ConfigError,
    CorruptError,
    DivergedError,
    StreamError,
    UnknownCodecError,
    UnsupportedInputError,
    WeightsError,
    WrongWeightsError,
)
from obverse.interfaces import Condition, Encoder, Latents
from obverse.ledger import Ledger
from obverse.pipeline import Pipeline
from obverse.pixels import psnr
from obverse.testing import check_roundtrip

KINDS = ["uniform", "llama", "hyper"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("codecs")
    return {
        "uniform": toy_config(folder, name="uniform-toy"),
        "llama": toy_config(folder, name="llama-toy", prior="llama"),
        "hyper": toy_hyper_config(folder, name="hyper-toy"),
    }


@pytest.fixture(scope="module")
def codecs(paths: dict[str, Path]) -> dict[str, Codec]:
    return {kind: obverse.load(path) for kind, path in paths.items()}


def picture(width: int = 100, height: int = 70, seed: int = 0) -> np.ndarray:
    """A smooth random picture, [height, width, 3] uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class TestRoundTrip:
    @pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 64), (150, 100)])
    @pytest.mark.parametrize("kind", KINDS)
    def test_any_size(self, codecs: dict[str, Codec], kind: str, size: tuple[int, int]) -> None:
        check_roundtrip(codecs[kind], picture(*size))

    def test_every_quality(self, codecs: dict[str, Codec]) -> None:
        codec = codecs["hyper"]
        streams = [check_roundtrip(codec, picture(), quality=quality) for quality in (1, 2)]
        assert streams[0] != streams[1]
        assert codec.compress(picture()) == streams[0], "the middle one by default"
        assert [container.unpack(data).header.quality for data in streams] == [0, 1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_reconstruction_is_measured(self, codecs: dict[str, Codec], kind: str) -> None:
        result = codecs[kind].reconstruct(picture())
        assert result.bpp == pytest.approx(8 * len(result.data) / 7000)
        assert result.psnr == pytest.approx(psnr(picture(), np.asarray(result.image)))

    @pytest.mark.parametrize("kind", KINDS)
    def test_rate_is_that_of_the_payload(self, codecs: dict[str, Codec], kind: str) -> None:
        data = codecs[kind].compress(picture())
        rate = codecs[kind].rate(picture())
        longest = math.inf if kind == "hyper" else 5 * 7 * 4  # an untrained prior is worse than fixed lengths
        assert abs(len(container.unpack(data).payload) - min(rate.bits, longest) / 8) <= 2
        assert rate.bpp == pytest.approx(rate.bits / 7000)
        assert set(rate.bits_by_array) == ({"y", "z"} if kind == "hyper" else {"tokens"})

    def test_stream_carries_metadata(self, codecs: dict[str, Codec]) -> None:
        chunks = {"icc": b"profile", "exif": b"MM\0*", "name": b"llama-toy"}
        codec = codecs["llama"]
        decoded = codec.decompress(codec.compress(picture(), chunks=chunks))
        assert decoded.info["icc_profile"] == b"profile"
        assert decoded.info["exif"] == b"MM\0*"


class TestImages:
    def test_kinds_give_one_stream(self, codecs: dict[str, Codec]) -> None:
        pixels, codec = picture(), codecs["llama"]
        floats = pixels.astype(np.float32) / 255
        kinds: list[Any] = [
            Image.fromarray(pixels),
            pixels,
            floats,
            torch.from_numpy(pixels.copy()).permute(2, 0, 1),
            torch.from_numpy(floats.copy()).permute(2, 0, 1),
        ]
        streams = codec.compress(kinds)
        assert streams == [codec.compress(kind) for kind in kinds]
        assert len(set(streams)) == 1
        assert codec.compress(tuple(kinds)) == streams

    @pytest.mark.parametrize("kind", KINDS)
    def test_lists_equal_single_images(self, codecs: dict[str, Codec], kind: str) -> None:
        images = [picture(seed=1), picture(seed=2), picture(40, 90), picture(seed=3)]
        assert codecs[kind].compress(images) == [codecs[kind].compress(image) for image in images]
        assert codecs[kind].compress([]) == []

    def test_large_batches_are_split(self, codecs: dict[str, Codec], monkeypatch: pytest.MonkeyPatch) -> None:
        images = [picture(seed=seed) for seed in range(3)]
        together = codecs["llama"].compress(images)
        monkeypatch.setattr("obverse.codec.BATCH_PIXELS", 2 * 7000)
        assert codecs["llama"].compress(images) == together

    def test_what_is_no_image_is_refused(self, codecs: dict[str, Codec]) -> None:
        with pytest.raises(UnsupportedInputError, match=r"got builtins\.str"):
            codecs["llama"].compress("picture.png")

    def test_sizes_beyond_the_limit_are_refused(
        self, codecs: dict[str, Codec], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(container, "MAX_PIXELS", 6999)
        for action in (codecs["llama"].compress, codecs["llama"].rate):
            with pytest.raises(UnsupportedInputError, match="100x70 pixels is outside"):
                action(picture())
        with pytest.raises(UnsupportedInputError, match="100x70 pixels is outside"):
            codecs["llama"].generate(size=(100, 70))


class TestGenerate:
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_seed_same_pictures(self, codecs: dict[str, Codec], kind: str) -> None:
        codec = codecs[kind]
        first, again, other = (codec.generate(2, seed=seed, size=(70, 40)) for seed in (5, 5, 6))
        assert [image.size for image in first] == [(70, 40)] * 2
        assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
        assert first[0].tobytes() != first[1].tobytes()
        assert first[0].tobytes() != other[0].tobytes()

    def test_without_temperature_all_are_equal(self, codecs: dict[str, Codec]) -> None:
        first, second = codecs["llama"].generate(2, temperature=0, size=(40, 40))
        assert first.tobytes() == second.tobytes()
        assert first.tobytes() == codecs["llama"].generate(top_k=1, seed=9, size=(40, 40))[0].tobytes()

    @pytest.mark.parametrize("wrong", [{"n": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
    def test_arguments_are_checked(self, codecs: dict[str, Codec], wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="generate needs n >= 1"):
            codecs["llama"].generate(**wrong)

    @pytest.mark.parametrize("quality", [0, 3, -1])
    def test_qualities_are_checked(self, codecs: dict[str, Codec], quality: int) -> None:
        with pytest.raises(ConfigError, match=rf"quality {quality} does not exist.*qualities 1 to 2"):
            codecs["hyper"].generate(quality=quality)
        with pytest.raises(ConfigError, match="only quality 1"):
            codecs["llama"].compress(picture(), quality=2)


class TestGenerateFromAPicture:
    def test_everything_kept_is_the_reconstruction(self, codecs: dict[str, Codec]) -> None:
        for kind, keep in {"uniform": "tokens", "llama": 1, "hyper": ("z", "y")}.items():
            ledger = Ledger()
            first, second = codecs[kind].generate(2, known=picture(), keep=keep, ledger=ledger)
            expected = codecs[kind].reconstruct(picture()).image
            assert first.tobytes() == second.tobytes() == expected.tobytes()
            rate = codecs[kind].rate(picture())
            assert ledger.bits == pytest.approx({name: 2 * bits for name, bits in rate.bits_by_array.items()})

    def test_the_rest_is_drawn(self, codecs: dict[str, Codec]) -> None:
        codec, own = codecs["hyper"], codecs["hyper"].rate(picture()).bits_by_array
        ledgers = [Ledger(), Ledger()]
        pictures = [
            codec.generate(known=picture(), keep="z", seed=seed, ledger=ledger)[0]
            for seed, ledger in enumerate(ledgers)
        ]
        assert pictures[0].size == (100, 70)
        assert pictures[0].tobytes() != pictures[1].tobytes()
        assert [list(ledger.bits) for ledger in ledgers] == [["z", "y"]] * 2
        assert [ledger.bits["z"] for ledger in ledgers] == [own["z"]] * 2
        assert own["y"] != ledgers[0].bits["y"] != ledgers[1].bits["y"]
        assert codec.generate(known=picture(), keep=1)[0].tobytes() == pictures[0].tobytes()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"keep": "z"}, "both known and keep"),
            ({"known": picture()}, "both known and keep"),
            ({"known": picture(), "keep": ["z", "x"]}, r"arrays \['x'\] cannot be kept: .*'hyper-toy', y, z"),
            ({"known": picture(), "keep": []}, "cannot be kept"),
            ({"known": picture(), "keep": 3}, "3 arrays cannot be kept: .*1 to 2"),
            ({"known": picture(), "keep": "z", "size": (256, 256)}, "image has 100x70 pixels"),
        ],
    )
    def test_refused(self, codecs: dict[str, Codec], arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            codecs["hyper"].generate(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_large_pictures_run_in_tiles(codecs: dict[str, Codec], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, image = codecs[kind], picture(460, 140)
    data = codec.compress(image)
    whole = np.asarray(codec.decompress(data)).astype(int)
    monkeypatch.setattr("obverse.canvas.TILE", 128)
    assert codec.compress(image) == data
    assert np.abs(np.asarray(codec.decompress(data)).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_matter(codecs: dict[str, Codec], kind: str) -> None:
    codec, before = codecs[kind], torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        data = codec.compress(picture())
        torch.set_num_threads(2)
        codec.decompress(data)
    finally:
        torch.set_num_threads(before)


class TestRefusals:
    def test_other_probabilities_are_noticed(self, paths: dict[str, Path]) -> None:
        codec = obverse.load(paths["uniform"])
        codec.pipeline.prior = LyingPrior(alphabets={"tokens": 16})
        with pytest.raises(DivergedError, match="the decoded symbols are not the encoded ones"):
            codec.decompress(codec.compress(picture()))

    def test_streams_of_another_codec(self, codecs: dict[str, Codec]) -> None:
        data = codecs["uniform"].compress(picture(), chunks={"name": b"uniform-toy"})
        with pytest.raises(UnknownCodecError, match="another codec, 'uniform-toy', not 'llama-toy'"):
            codecs["llama"].decompress(data)

    def test_streams_of_other_weights(self, codecs: dict[str, Codec], tmp_path: Path) -> None:
        other = obverse.load(toy_config(tmp_path, name="uniform-toy", seed=1))
        with pytest.raises(WrongWeightsError, match="another configuration or other weights"):
            other.decompress(codecs["uniform"].compress(picture()))

    def test_settings_that_no_encoder_writes(self, codecs: dict[str, Codec]) -> None:
        codec = codecs["hyper"]
        stream = container.unpack(codec.compress(picture()))
        for change, message in (
            ({"quality": 7}, "quality 8 of 2"),
            ({"coder": 3}, "entropy coder 3, which does not exist"),
            ({"numerics": 3}, "numerics mode 3, which does not exist"),
            ({"numerics": 2}, "'native', and no others, tell the environment"),
        ):
            header = container.Header(**{**vars(stream.header), **change})
            with pytest.raises(CorruptError, match=message):
                codec.decompress(container.pack(header, stream.payload, stream.symbol_check))

    @pytest.mark.parametrize("kind", KINDS)
    def test_other_payloads_are_noticed(self, codecs: dict[str, Codec], kind: str) -> None:
        codec, rng = codecs[kind], np.random.default_rng(0)
        stream = container.unpack(codec.compress(picture(60, 50)))
        payload = stream.payload
        others = [payload[:-1], payload[1:], b"", payload[::-1], bytes(rng.integers(0, 256, 3 * len(payload)).tolist())]
        for other in others:
            with pytest.raises(StreamError):
                codec.decompress(container.pack(stream.header, other, stream.symbol_check))

    def test_a_coder_that_only_measures(self, paths: dict[str, Path]) -> None:
        codec = obverse.load(paths["uniform"], parts={"coder": "ideal"})
        with pytest.raises(ConfigError, match="coder 'ideal' only measures and cannot write a file; use 'range'"):
            codec.compress(picture())
        assert codec.rate(picture()).bits == pytest.approx(5 * 7 * 4)

    def test_weights_that_do_not_fit(self, paths: dict[str, Path]) -> None:
        with pytest.raises(WeightsError, match=r"weights of the quantizer do not fit.*codebook.weight is \(16, 4\)"):
            obverse.load(paths["uniform"], overrides=["quantizer.size=17"])

    def test_devices_that_do_not_exist(self, paths: dict[str, Path]) -> None:
        with pytest.raises(ConfigError, match="device 'nowhere' cannot run codec"):
            obverse.load(paths["uniform"], device="nowhere")


class TestByName:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "named_codecs"
        folder.mkdir()
        with installed(toy_config(folder, name="named-toy")):
            yield folder

    def test_streams_find_their_codec(self, folder: Path) -> None:
        codec = obverse.load("named-toy")
        data = codec.compress(picture())
        assert obverse.decompress(data).tobytes() == codec.decompress(data).tobytes()

    def test_other_coders_are_named_by_the_stream(self, folder: Path) -> None:
        data = obverse.load("named-toy", parts={"coder": "raw"}).compress(picture())
        assert len(container.unpack(data).payload) == -(-5 * 7 * 4 // 8)
        assert obverse.decompress(data).size == (100, 70)

    def test_codecs_that_are_not_installed(self, codecs: dict[str, Codec]) -> None:
        data = codecs["uniform"].compress(picture(), chunks={"name": b"uniform-toy"})
        with pytest.raises(UnknownCodecError, match=r"no installed codec wrote this stream \(it says 'uniform-toy'\)"):
            obverse.decompress(data)


class TileEncoder(Encoder):
    """Grey means of 4x4 pixels, and of no other size than 16x16."""

    stride = multiple = 4
    tile = 16
    channels: ClassVar[Mapping[str, int]] = {"x": 1}

    def encode(self, images: torch.Tensor, condition: Condition) -> Latents:
        assert images.shape[1:] == (3, 16, 16)
        return {"x": F.avg_pool2d(images.mean(1, keepdim=True), 4) * 4 - 2}

    def decode(self, latents: Latents, condition: Condition) -> torch.Tensor:
        return F.interpolate((latents["x"] + 2) / 4, scale_factor=4.0).expand(-1, 3, -1, -1)


class TestOneSize:
    """An encoder bound to one size runs on tiles, each a picture of its own."""

    @pytest.fixture
    def codec(self, paths: dict[str, Path]) -> Codec:
        codec = obverse.load(paths["uniform"])
        codec.pipeline = Pipeline(TileEncoder(), NextTokenQuantizer(), NextTokenPrior(), codec.pipeline.coder)
        return codec

    @pytest.mark.parametrize("size", [(5, 3), (16, 16), (16, 40), (45, 33)])
    def test_larger_and_smaller_pictures(self, codec: Codec, size: tuple[int, int]) -> None:
        grey = picture(*size)[:, :, :1].repeat(3, axis=2)
        decoded = np.asarray(codec.decompress(check_roundtrip(codec, grey))).astype(int)
        assert np.abs(decoded - grey).mean() < 40, "eight grey levels of 4x4 pixels"

    def test_batches_of_tiles(self, codec: Codec) -> None:
        images = [picture(40, 20, seed) for seed in range(3)]
        assert codec.compress(images) == [codec.compress(image) for image in images]

    def test_a_tile_sees_nothing_but_itself(self, codec: Codec) -> None:
        one, other = picture(32, 16).copy(), picture(32, 16).copy()
        other[:, 16:] = 255 - other[:, 16:]
        decoded = [np.asarray(codec.decompress(codec.compress(image))) for image in (one, other)]
        assert np.array_equal(decoded[0][:, :16], decoded[1][:, :16])
        assert not np.array_equal(decoded[0][:, 16:], decoded[1][:, 16:])


@pytest.fixture(scope="module", params=[None, 4], ids=["whole", "windows"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Codec]:
    path = toy_class_config(tmp_path_factory.mktemp("classes"), window=request.param)
    with installed(path):
        yield obverse.load(path)


class TestClasses:
    """A prior whose probabilities depend on the class that it is told, with and without windows."""

    @pytest.mark.parametrize("label", [None, 0, 1, 299])
    def test_round_trip(self, codec: Codec, label: int | None) -> None:
        image = picture(70, 60)
        data = codec.compress(image, label=label, verify=True)
        header = container.unpack(data).header
        assert header.label() == label
        assert ("class" in header.chunks) == (label is not None)
        assert np.array_equal(np.asarray(codec.decompress(data)), np.asarray(codec.reconstruct(image).image))
        assert obverse.decompress(data).size == (70, 60)
        assert codec.reconstruct(image, label=label).data == data

    def test_the_class_decides_the_size(self, codec: Codec) -> None:
        image = picture(70, 60)
        sizes = {label: codec.rate(image, label=label).bits for label in (None, 0, 1, 2)}
        assert len(set(sizes.values())) == 4
        for label, bits in sizes.items():
            payload = container.unpack(codec.compress(image, label=label)).payload
            assert abs(8 * len(payload) - bits) < 64

    def test_another_class_than_the_encoders_diverges(self, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codec, "_encoder", codec.pipeline.coder.encoder)  # fixed-length codes ask no class
        stream = container.unpack(codec.compress(picture(), label=3))
        for chunks in ({"class": b"\x04"}, {}):
            data = container.pack(replace(stream.header, chunks=chunks), stream.payload, stream.symbol_check)
            with pytest.raises(DivergedError):
                codec.decompress(data)

    def test_streams_with_classes_that_do_not_exist(self, codec: Codec, codecs: dict[str, Codec]) -> None:
        for coder, message in ((codec, "its codec has 300 classes"), (codecs["llama"], "its codec has no classes")):
            stream = container.unpack(coder.compress(picture()))
            header = replace(stream.header, chunks={"class": container.varint(300)})
            with pytest.raises(CorruptError, match=f"the stream names class 300, {message}"):
                coder.decompress(container.pack(header, stream.payload, stream.symbol_check))

    def test_generation(self, codec: Codec) -> None:
        def drawn(**options: Any) -> np.ndarray:
            return np.asarray(codec.generate(seed=3, size=(64, 64), **options)[0])

        assert np.array_equal(drawn(label=5), drawn(label=5))
        pictures = [drawn(), drawn(label=5), drawn(label=6), drawn(label=5, guidance=4.0)]
        assert len({picture.tobytes() for picture in pictures}) == 4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label": 300}, r"class 300 does not exist: prior 'class-toy' of codec 'class-toy' has classes 0 to 299"),
            ({"label": -1}, "class -1 does not exist"),
            ({"guidance": 2.0}, "guidance needs a class"),
            ({"label": 1, "guidance": -1.0}, r"guidance -1\.0 is not a number from 0 upwards"),
            ({"label": 1, "guidance": float("nan")}, "guidance nan is not"),
            ({"label": 1, "guidance": float("inf")}, "guidance inf is not"),
        ],
    )
    def test_what_does_not_exist(self, codec: Codec, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            codec.generate(**options)
        if "guidance" not in options:
            for method in (codec.compress, codec.rate, codec.reconstruct):
                with pytest.raises(ConfigError, match=message):
                    method(picture(), **options)

    @pytest.mark.parametrize("options", [{"label": 0}, {"label": 0, "guidance": 1.0}, {"guidance": 1.0}])
    @pytest.mark.parametrize("kind", KINDS)
    def test_priors_without_classes(self, codecs: dict[str, Codec], kind: str, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"prior '[\w-]+' of codec '[\w-]+' has no classes: leave"):
            codecs[kind].generate(**options)

    def test_a_class_among_the_chunks(self, codec: Codec) -> None:
        with pytest.raises(UnsupportedInputError, match="streams tell their class themselves"):
            codec.compress(picture(), chunks={"class": b"\x01"})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["pocket-vq", "pocket-hyper"])
def test_transforms_run_in_half_precision(name: str, dtype: str) -> None:
    pixels = picture(128, 96)
    half, full = obverse.load(name, dtype=dtype), obverse.load(name)
    data = half.compress(pixels)
    ours, theirs = (np.asarray(codec.decompress(data)).astype(int) for codec in (half, full))
    assert np.abs(ours - theirs).mean() < 1
    with pytest.raises(ConfigError, match=r"no dtype 'bfloat15'.*did you mean 'bfloat16'"):
        obverse.load(name, dtype="bfloat15")
