"""Cosmos and its parts, small and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from toys import picture

import obverse
from obverse.codec import Codec
from obverse.config import CodecConfig, load_config
from obverse.errors import ConfigError
from obverse.interfaces import Condition, Encoder, Layout, Prior, Quantizer
from obverse.ledger import Ledger
from obverse.loop import Known, run
from obverse.numerics import NATIVE, prepare
from obverse.pipeline import build, create
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse.weights import write_tensors
from obverse_cosmos.checkpoints import ImageTokenizerFormat, VideoTokenizerFormat, WorldModelFormat, text_weights
from obverse_cosmos.fsq import FiniteScalarQuantizer
from obverse_cosmos.haar import patch_image, patch_video, unpatch_image, unpatch_video
from obverse_cosmos.image import CosmosImageAutoencoder
from obverse_cosmos.plugin import obverse_components
from obverse_cosmos.positions import places, rotary_3d
from obverse_cosmos.prior import CosmosPrior
from obverse_cosmos.video import CosmosVideoAutoencoder

LEVELS = [3, 4, 2]
IMAGE: dict[str, Any] = {
    "patch": 2,
    "stride": 8,
    "dim": 3,
    "z_channels": 5,
    "width": 32,
    "multipliers": [1, 2, 2],
    "blocks": 1,
    "attention_levels": [1],
}
VIDEO: dict[str, Any] = {
    "patch": 2,
    "stride": 8,
    "time_stride": 4,
    "dim": 3,
    "z_channels": 5,
    "width": 4,
    "multipliers": [1, 2, 2],
    "blocks": 1,
    "attention_levels": [1],
}
PRIOR: dict[str, Any] = {
    "vocabulary": 24,
    "dim": 24,
    "layers": 2,
    "hidden": 40,
    "heads": 4,
    "key_heads": 2,
    "head_dim": 12,
    "window": 4,
}
BEGINS: dict[str, Any] = {**PRIOR, "begins": True, "stretch": {"grid": [3, 40, 64], "scale": 2, "fast": 4, "slow": 1}}


class TestImageAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return fill(CosmosImageAutoencoder(**IMAGE), "image")


class TestImageAutoencoderWhoseLastLevelHalves(EncoderContract):
    def make(self) -> Encoder:
        sizes = {**IMAGE, "multipliers": [1, 2], "attention_levels": [], "synthesis_attention_levels": [0]}
        return fill(CosmosImageAutoencoder(**sizes), "image")


class TestVideoAutoencoder(EncoderContract):
    def make(self) -> Encoder:
        return fill(CosmosVideoAutoencoder(**VIDEO), "video")


class TestQuantizer(QuantizerContract):
    idempotent = False  # the way to codes is bounded, codes are not

    def make(self) -> Quantizer:
        return FiniteScalarQuantizer(levels=LEVELS)


class TestBasePrior(PriorContract):
    def make(self) -> Prior:
        return fill(CosmosPrior(**PRIOR), "base", gain=2.0)


class TestVideoToWorldPrior(PriorContract):
    def make(self) -> Prior:
        return fill(CosmosPrior(**BEGINS), "begins", gain=2.0)


class TestVideoToWorldPriorWithText(PriorContract):
    def make(self) -> Prior:
        return fill(CosmosPrior(**BEGINS, text_tokens=3, text_dim=10), "text", gain=2.0)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_wavelets_are_undone(patch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image, video = torch.randn(2, 3, 8, 12, generator=generator), torch.randn(2, 3, 9, 8, 12, generator=generator)
    torch.testing.assert_close(unpatch_image(patch_image(image, patch), patch), image)
    torch.testing.assert_close(unpatch_video(patch_video(video, patch), patch), video)


def test_every_token_has_a_code_of_its_own() -> None:
    quantizer = FiniteScalarQuantizer(levels=LEVELS)
    codes = quantizer.lookup(torch.arange(24))
    assert len(codes.unique(dim=0)) == 24
    assert quantizer.lookup(torch.tensor(0)).tolist() == [-1, -1, -1]
    assert quantizer.lookup(torch.tensor(1)).tolist() == [0, -1, -1]


def test_vectors_of_any_magnitude_have_tokens() -> None:
    vectors = torch.tensor([[-1e30, -1e30, -1e30], [1e30, 1e30, 1e30]])
    assert FiniteScalarQuantizer(levels=LEVELS).nearest(vectors).tolist() == [0, 23]


@pytest.mark.parametrize("levels", [LEVELS, [8, 8, 8, 5, 5, 5]])
def test_candidates_are_the_nearest_of_all_codes(levels: list[int]) -> None:
    quantizer, count = FiniteScalarQuantizer(levels=levels), 32
    vectors = torch.randn(20, len(levels), generator=torch.Generator().manual_seed(0)) * 2
    tokens, distances = quantizer.nearest_tokens(vectors, count)
    assert torch.equal(tokens[:, 0], quantizer.nearest(vectors))
    bounded = quantizer.bound(vectors) / (quantizer.levels // 2)
    codes = quantizer.lookup(torch.arange(quantizer.alphabets["tokens"] or 0))
    everywhere = (bounded[:, None] - codes).square().sum(-1)  # [N, K]
    expected = everywhere.sort(dim=1).values[:, :count]
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(everywhere.gather(1, tokens), expected, rtol=1e-5, atol=1e-6)


def test_half_way_between_levels_the_chosen_one_is_first() -> None:
    quantizer = FiniteScalarQuantizer(levels=[3, 3])
    edge = torch.tensor([[0.5, 0.0]])
    quantizer.bound = lambda vectors: vectors  # type: ignore[method-assign]
    tokens, distances = quantizer.nearest_tokens(edge, 2)
    assert tokens[0, 0] == quantizer.nearest(edge)[0]
    assert distances.tolist() == [[0.25, 0.25]]


def test_a_video_of_one_frame_is_the_start_of_a_longer_one() -> None:
    model = fill(CosmosVideoAutoencoder(**VIDEO), "video").requires_grad_(False)
    video = torch.rand(1, 3, 9, 16, 8, generator=torch.Generator().manual_seed(0))
    latents = model.analyse(video)
    assert latents.shape == (1, 3, 3, 2, 1)
    torch.testing.assert_close(latents[:, :, :1], model.analyse(video[:, :, :1]), atol=1e-5, rtol=1e-5)
    assert model.synthesise(latents).shape == video.shape


def test_heads_share_out_their_pairs_to_time_rows_and_columns() -> None:
    table = rotary_3d(places(2, 3, 4), 16, 500000.0)  # 4 pairs of time, 2 of rows, 2 of columns
    assert table.shape == (24, 8, 2)
    step = torch.tensor(1.0, dtype=torch.float64)
    for place, pair in ((12, 0), (4, 4), (1, 6)):
        turned = (table[place, :, 0] - 1).abs() > 1e-15
        assert turned.nonzero()[0].item() == pair
        torch.testing.assert_close(table[place, pair], torch.stack([step.cos(), step.sin()]))


def test_without_a_begin_token_the_first_costs_the_same_whatever_it_is() -> None:
    prior = prepare(fill(CosmosPrior(**PRIOR), "base").requires_grad_(False), NATIVE)
    first = next(prior.blocks(Layout(1, 2, 2), Condition()))
    assert not first.distribution.logits.any()  # type: ignore[attr-defined]
    assert len(run(prior.blocks(Layout(1, 1, 1), Condition()), Known({"tokens": torch.tensor([[5]])}))) == 1


@pytest.mark.parametrize(
    ("kind", "section", "message"),
    [
        ("encoder", {"name": "cosmos-image", **IMAGE, "stride": 64}, "3 levels cannot go from patches of 2 to a"),
        ("encoder", {"name": "cosmos-image", **IMAGE, "patch": 3}, "3 is not a power of two"),
        (
            "encoder",
            {"name": "cosmos-video", **VIDEO, "time_stride": 16},
            "cannot go from patches of 2 to strides of 8",
        ),
        ("quantizer", {"name": "fsq", "levels": [8, 1]}, r"levels are at least 2 for each channel, got \[8, 1\]"),
        ("prior", {"name": "cosmos-ar", **PRIOR, "key_heads": 3}, "4 heads cannot share the keys of 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind: str, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(kind, section)


def codec(folder: Path, encoder: dict[str, Any], prior: dict[str, Any]) -> Codec:
    """A small codec whose weights are seeded."""
    quantizer = {"name": "fsq", "levels": LEVELS}
    parts: dict[str, Any] = {"encoder": encoder, "quantizer": quantizer, "prior": prior, "coder": {"name": "range"}}
    tensors = {
        f"{prefix}.{name}": value
        for prefix, module in build(CodecConfig("small", parts)).modules.items()
        for name, value in fill(module, prefix).state_dict().items()
    }
    write_tensors(folder / "small.safetensors", tensors, {}, int8=False)
    path = folder / "small.yaml"
    body = {"name": "small", **parts, "weights": "small.safetensors"}
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(body)), encoding="utf-8")
    return obverse.load(path)


@pytest.mark.parametrize("size", [(48, 40), (37, 21), (5, 3)])
@pytest.mark.parametrize(
    ("encoder", "prior"),
    [
        ({"name": "cosmos-image", **IMAGE}, {"name": "uniform"}),
        ({"name": "cosmos-video", **VIDEO}, {"name": "cosmos-ar", **PRIOR}),
        ({"name": "cosmos-video", **VIDEO}, {"name": "cosmos-ar", **BEGINS}),
    ],
    ids=["image", "video", "video-begins"],
)
def test_round_trip(tmp_path: Path, encoder: dict[str, Any], prior: dict[str, Any], size: tuple[int, int]) -> None:
    image = picture(*size)
    small = codec(tmp_path, encoder, prior)
    data = check_roundtrip(small, image)
    assert np.asarray(small.decompress(data)).shape == image.shape


def test_rate_control(tmp_path: Path) -> None:
    small = codec(tmp_path, {"name": "cosmos-video", **VIDEO}, {"name": "cosmos-ar", **PRIOR})
    image = picture(40, 32)
    control, layout = small._rate_control([image], small.condition()), small.canvas.layout(1, 32, 40)
    bits = []
    for rd_lambda in (1e9, 0):
        ledger = Ledger()
        source = ledger.counting(Known(control.choose(rd_lambda)))
        run(small.pipeline.grid_prior.blocks(layout, small.condition()), source)
        bits.append(ledger.bits["tokens"])
    assert bits[0] == small.rate(image).bits
    assert bits[1] < bits[0]
    small.compress(image, rd_lambda=0, verify=True)


def test_a_text_is_a_file_of_weights(tmp_path: Path) -> None:
    """From an official file and an embedding; another text is another fingerprint."""
    sizes, embedding = {**BEGINS, "text_tokens": 3, "text_dim": 10}, torch.randn(3, 10)
    model = fill(CosmosPrior(**sizes), "text", gain=2.0)
    official = {f"model.{name}": value for name, value in model.state_dict().items() if name != "text"}
    torch.save({"model": official}, tmp_path / "model.pt")
    video = {"name": "cosmos-video", **VIDEO}
    plain = codec(tmp_path, video, {"name": "cosmos-ar", **BEGINS})
    body = OmegaConf.load(tmp_path / "small.yaml")
    body.prior = {"name": "cosmos-ar", **sizes}
    (tmp_path / "text.yaml").write_text(OmegaConf.to_yaml(body), encoding="utf-8")
    prints = set()
    for text in (embedding, -embedding):
        save_file(text_weights(official, text), tmp_path / "text.safetensors")
        files = [tmp_path / name for name in ("small.safetensors", "model.pt", "text.safetensors")]
        found = obverse.load(tmp_path / "text.yaml", weights=files)
        check_roundtrip(found, picture(24, 16))
        prints.add(found.config.fingerprint())
    assert len(prints | {plain.config.fingerprint()}) == 3


CODECS = [component.name for component in obverse_components() if component.kind == "codec"]


@pytest.mark.parametrize("name", CODECS)
def test_named_codecs_are_whole(name: str) -> None:
    with torch.device("meta"):
        pipeline = build(load_config(name))
    assert pipeline.encoder.stride == (8 if "8x8" in name else 16)
    assert pipeline.quantizer.alphabets == {"tokens": 64000}
    assert isinstance(pipeline.prior, CosmosPrior) == ("predict1" in name)


FILES = {
    ImageTokenizerFormat: lambda: CosmosImageAutoencoder(**IMAGE),
    VideoTokenizerFormat: lambda: CosmosVideoAutoencoder(**VIDEO),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("prefix", ["", "network."])
def test_tables_and_averages_are_left_out(kind: type[ImageTokenizerFormat | VideoTokenizerFormat], prefix: str) -> None:
    module: nn.Module = FILES[kind]()
    state = module.state_dict()
    spare = [
        "encoder.patcher.wavelets",
        "encoder.patcher3d.patch_size_buffer",
        "decoder.unpatcher._arange",
        "quantizer.implicit_codebook",
        "inv_quant.quantizer._levels",
    ]
    file = {prefix + name: value for name, value in state.items()} | {prefix + name: torch.zeros(2) for name in spare}
    file |= {f"ema.{name}": value for name, value in state.items()}
    official = VideoTokenizerFormat(stride=8, time_stride=4) if kind is VideoTokenizerFormat else kind()
    assert official.recognises({name: tuple(value.shape) for name, value in file.items()})
    assert official.translate(file).keys() == {f"encoder.{name}" for name in state}


def test_convolutions_that_never_run_are_left_out() -> None:
    state = CosmosVideoAutoencoder(**VIDEO).state_dict()
    shape = state["encoder.down.1.downsample.conv1.conv3d.weight"].shape[:2]
    idle = {
        f"{part}.conv3d.weight": torch.zeros(*shape, 3, 1, 1)
        for part in ("encoder.down.1.downsample.conv2", "decoder.up.2.upsample.conv1")
    }
    official = VideoTokenizerFormat(stride=8, time_stride=4)
    assert not state.keys() & idle.keys()
    for part in ("encoder.", "decoder."):
        file = {name: value for name, value in (state | idle).items() if name.startswith(part)}
        names = {f"encoder.{name}" for name in state if name.startswith(part)}
        assert official.translate(file).keys() == names


def test_attention_to_text_is_left_out() -> None:
    state = CosmosPrior(**BEGINS).state_dict()
    spare = ["layers.0.cross_attention.wq.weight", "layers.0.cross_attention_norm.weight", "norm._extra_state"]
    file = {f"model.{name}": value for name, value in state.items()} | dict.fromkeys(spare, torch.zeros(1))
    official = WorldModelFormat()
    assert official.recognises({name: tuple(value.shape) for name, value in file.items()})
    assert official.translate(file).keys() == {f"prior.{name}" for name in state}
