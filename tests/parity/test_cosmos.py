"""Cosmos tokenizers against official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import ROOT, Golden, goldens
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

import obverse
from obverse.checkpoints import CheckpointFormat, recognised
from obverse.config import load_config
from obverse.interfaces import Coded, Condition, Encoder, Layout
from obverse.pipeline import build
from obverse_cosmos.checkpoints import ImageTokenizerFormat, VideoTokenizerFormat
from obverse_cosmos.fsq import FiniteScalarQuantizer
from obverse_cosmos.haar import patch_image, patch_video, unpatch_image, unpatch_video
from obverse_cosmos.image import CosmosImageAutoencoder
from obverse_cosmos.video import CosmosVideoAutoencoder

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5  # of the fixtures' README: float32 sums in another order

IMAGE = goldens("cosmos", "DiscreteImageTokenizer")
VIDEO = goldens("cosmos", "CausalDiscreteVideoTokenizer")

CODECS = {
    "Cosmos-0.1-Tokenizer-DI8x8": "cosmos-di8x8",
    "Cosmos-0.1-Tokenizer-DI16x16": "cosmos-di16x16",
    "Cosmos-Tokenize1-DI8x8-360p": "cosmos1-di8x8-360p",
    "Cosmos-Tokenize1-DI16x16-360p": "cosmos1-di16x16-360p",
    "Cosmos-1.0-Tokenizer-DV8x16x16": "cosmos-dv8x16x16",
    "Cosmos-Tokenize1-DV8x16x16-720p": "cosmos1-dv8x16x16-720p",
}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def arguments(kwargs: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """Ours for the official ones; which levels have attention is told by the weights."""
    found = {
        side: sorted({int(key.split(".")[2]) for key in weights if key.startswith(side) and ".attn." in key})
        for side in ("encoder.down.", "decoder.up.")
    }
    return {
        "patch": kwargs["patch_size"],
        "stride": kwargs["spatial_compression"],
        "dim": kwargs["embedding_dim"],
        "z_channels": kwargs["z_channels"],
        "width": kwargs["channels"],
        "multipliers": kwargs["channels_mult"],
        "blocks": kwargs["num_res_blocks"],
        "attention_levels": found["encoder.down."],
        "synthesis_attention_levels": found["decoder.up."],
    }


def pixels(image: Tensor) -> Tensor:
    """Bytes to what the networks take, in float64 and then rounded, as official code does."""
    return (image.double() / 255 * 2 - 1).float()


def loaded(encoder: Any, official: CheckpointFormat, weights: dict[str, Tensor]) -> Any:
    """The encoder with official weights, strictly."""
    assert official.recognises({key: tuple(value.shape) for key, value in weights.items()})
    translated = official.translate(weights)
    assert all(key.startswith("encoder.") for key in translated)
    encoder.load_state_dict({key.removeprefix("encoder."): value.float() for key, value in translated.items()})
    return encoder.requires_grad_(False).eval()


def image_codec(golden: Golden) -> tuple[CosmosImageAutoencoder, FiniteScalarQuantizer]:
    kwargs, weights = golden.config["kwargs"], golden.weights()
    encoder = CosmosImageAutoencoder(**arguments(kwargs, weights))
    return loaded(encoder, ImageTokenizerFormat(), weights), FiniteScalarQuantizer(levels=kwargs["levels"])


def video_codec(golden: Golden) -> tuple[CosmosVideoAutoencoder, FiniteScalarQuantizer]:
    kwargs, weights = golden.config["kwargs"], golden.weights()
    time_stride = kwargs["temporal_compression"]
    encoder = CosmosVideoAutoencoder(**arguments(kwargs, weights), time_stride=time_stride)
    official = VideoTokenizerFormat(stride=kwargs["spatial_compression"], time_stride=time_stride)
    return loaded(encoder, official, weights), FiniteScalarQuantizer(levels=kwargs["levels"])


def check_picture(
    encoder: Encoder, quantizer: FiniteScalarQuantizer, image: Tensor, expected: dict[str, Tensor]
) -> None:
    """Picture to tokens to picture, by the interfaces; expected arrays have no axis of time."""
    condition = Condition()
    latents = encoder.encode(image.float() / 255, condition)
    close(latents["tokens"], expected["prequant"])
    tokens = quantizer.symbols(latents)["tokens"]
    indices = expected["indices"].long()
    assert torch.equal(tokens, indices.flatten(1))
    values = quantizer.dequantize([Coded("tokens", tokens)], Layout(len(tokens), *indices.shape[1:]))
    assert torch.equal(values["tokens"], expected["codes"])
    close(encoder.decode(values, condition) * 2 - 1, expected["recon"])


@pytest.mark.parametrize("golden", IMAGE)
def test_image_tokenizer(golden: Golden) -> None:
    encoder, quantizer = image_codec(golden)
    check_picture(encoder, quantizer, golden.tensors()["image_u8"], golden.tensors())


@pytest.mark.parametrize("golden", IMAGE)
def test_stages_of_the_image_tokenizer(golden: Golden) -> None:
    encoder, _ = image_codec(golden)
    io = golden.tensors()
    patched = patch_image(pixels(io["image_u8"]), encoder.patch)
    close(patched, io["patched"])
    close(encoder.encoder(patched), io["encoder_out"])
    close(encoder.post_quant_conv(io["codes"]), io["decoder_in"])
    close(encoder.decoder(io["decoder_in"]), io["decoder_before_unpatch"])


@pytest.mark.parametrize("golden", VIDEO)
def test_a_frame_of_the_video_tokenizer(golden: Golden) -> None:
    encoder, quantizer = video_codec(golden)
    io = golden.tensors()
    frame = {key: value[:, 0] if key.endswith("indices") else value[:, :, 0] for key, value in io.items()}
    expected = {key.removeprefix("frame."): value for key, value in frame.items() if key.startswith("frame.")}
    check_picture(encoder, quantizer, frame["image_u8"], expected)


@pytest.mark.parametrize("golden", VIDEO)
def test_stages_of_the_video_tokenizer(golden: Golden) -> None:
    encoder, _ = video_codec(golden)
    io = golden.tensors()
    patched = patch_video(pixels(io["image_u8"][:, :, :1]), encoder.patch)
    close(patched, io["frame.patched"])
    close(encoder.encoder(patched), io["frame.encoder_out"])
    close(encoder.post_quant_conv(io["frame.codes"]), io["frame.decoder_in"])
    close(encoder.decoder(io["frame.decoder_in"]), io["frame.decoder_before_unpatch"])


@pytest.mark.parametrize("golden", VIDEO)
def test_a_clip(golden: Golden) -> None:
    encoder, quantizer = video_codec(golden)
    io = golden.tensors()
    latents = encoder.analyse(pixels(io["image_u8"]))
    close(latents, io["clip.prequant"])
    tokens = quantizer.nearest(latents.movedim(1, -1).flatten(0, -2))
    assert torch.equal(tokens, io["clip.indices"].long().flatten())
    codes = quantizer.lookup(io["clip.indices"].long()).movedim(-1, 1)
    close(encoder.synthesise(codes), io["clip.recon"])
    close(latents[:, :, :1], io["frame.prequant"])


OPS = ROOT / "cosmos" / "ops" / "io.safetensors"
needs_ops = pytest.mark.skipif(not OPS.is_file(), reason=f"no fixtures at {OPS} (set OBVERSE_GOLDENS)")


@needs_ops
@pytest.mark.parametrize("patch", [2, 4])
def test_wavelets(patch: int) -> None:
    io = load_file(OPS)
    image, video = io["haar2d.x"], io["haar3d.x"]
    close(patch_image(image, patch), io[f"haar2d.p{patch}"])
    close(unpatch_image(io[f"haar2d.p{patch}"], patch), io[f"haar2d.p{patch}.inverse"])
    close(patch_video(video, patch), io[f"haar3d.p{patch}"])
    close(unpatch_video(io[f"haar3d.p{patch}"], patch), io[f"haar3d.p{patch}.inverse"])
    close(patch_video(video[:, :, :1], patch), io[f"haar3d.p{patch}.single"])
    close(unpatch_video(io[f"haar3d.p{patch}.single"], patch), io[f"haar3d.p{patch}.single.inverse"])


@needs_ops
def test_finite_scalar_quantization() -> None:
    io = load_file(OPS)
    quantizer = FiniteScalarQuantizer(levels=[8, 8, 8, 5, 5, 5])
    vectors = io["fsq.z"][0, :, :, 0].T
    close(quantizer.bound(vectors), io["fsq.bound"][0, :, :, 0].T)
    tokens = quantizer.nearest(vectors)
    assert torch.equal(tokens, io["fsq.indices"].flatten().long())
    assert torch.equal(quantizer.lookup(tokens), io["fsq.codes"][0, :, :, 0].T)
    assert torch.equal(quantizer.lookup(io["fsq.table_indices"]), io["fsq.table_codes"])


KEYS = ROOT / "cosmos" / "official_keys"
KINDS = ("native", "autoencoder_jit", "encoder_jit", "decoder_jit", "model_pt")


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"no key lists under {KEYS} (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", CODECS)
def test_official_keys(release: str, kind: str) -> None:
    official = VideoTokenizerFormat() if "DV" in release else ImageTokenizerFormat()
    with torch.device("meta"):
        expected = build(load_config(CODECS[release])).modules["encoder"].state_dict()
        given = tensors(KEYS, release, kind)
    component = recognised(Path(release), {key: tuple(value.shape) for key, value in given.items()})
    assert component is not None
    assert component.name == ("cosmos-video" if "DV" in release else "cosmos-image")
    sides = {"encoder_jit": ("encoder.", "quant_conv."), "decoder_jit": ("decoder.", "post_quant_conv.")}
    wanted = {f"encoder.{key}": value.shape for key, value in expected.items() if key.startswith(sides.get(kind, ""))}
    assert {key: value.shape for key, value in official.translate(given).items()} == wanted


def tensors(folder: Path, release: str, kind: str) -> dict[str, Tensor]:
    """Tensors as a file of a release holds them; `model.pt` is the native state dict with a prefix, without tables."""
    listed = "native" if kind == "model_pt" else kind
    keys = json.loads((folder / f"{release}.{listed}.json").read_text(encoding="utf-8"))
    found = {key: torch.empty(shape) for key, (shape, _) in keys.items()}
    return {f"network.{key}": value for key, value in found.items()} if kind == "model_pt" else found


class Tree(nn.Module):
    """Modules whose tensors have the names of a state dict, as a scripted network keeps them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in dict.fromkeys(name.partition(".")[0] for name in tensors):
            inner = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            if inner:
                self.add_module(name, Tree(inner))
            elif tensors[name].is_floating_point():
                self.register_parameter(name, nn.Parameter(tensors[name]))
            else:
                self.register_buffer(name, tensors[name])

    def forward(self, x: Tensor) -> Tensor:
        return x


def archives(weights: dict[str, Tensor], levels: list[int]) -> dict[str, dict[str, Tensor]]:
    """What the TorchScript files of a release hold, by their names: parameters and every table."""
    basis = torch.tensor([1, *levels[:-1]]).cumprod(0).int()
    tables = {"_levels": torch.tensor(levels).int(), "_basis": basis, "implicit_codebook": torch.zeros(8, len(levels))}
    video = "encoder.conv_in.0.conv3d.weight" in weights
    haar = {"wavelets": torch.full((2,), 0.5**0.5), "_arange": torch.arange(2)}
    patcher = haar | ({"patch_size_buffer": torch.ones(1).int()} if video else {})
    suffix = "3d" if video else ""
    whole = (
        weights
        | {f"encoder.patcher{suffix}.{name}": table for name, table in patcher.items()}
        | {f"decoder.unpatcher{suffix}.{name}": table for name, table in haar.items()}
        | {f"quantizer.{name}": table for name, table in tables.items()}
    )
    decoder = {name: value for name, value in whole.items() if name.startswith(("decoder.", "post_quant_conv."))}
    return {
        "encoder.jit": {name: whole[name] for name in whole.keys() - decoder.keys()},
        "decoder.jit": decoder | {f"inv_quant.quantizer.{name}": table for name, table in tables.items()},
        "autoencoder.jit": whole,
    }


@pytest.mark.parametrize("names", [("encoder.jit", "decoder.jit"), ("autoencoder.jit",)], ids=["halves", "whole"])
@pytest.mark.parametrize("golden", [*IMAGE, *VIDEO])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archives(golden: Golden, names: tuple[str, ...], tmp_path: Path) -> None:
    """Files on disk to a codec, and a picture through bytes to the official one."""
    kwargs, weights, io = golden.config["kwargs"], golden.weights(), golden.tensors()
    encoder = {"name": "cosmos-image", **arguments(kwargs, weights)}
    video = golden.config["official_class"] == "CausalDiscreteVideoTokenizer"
    if video:
        encoder |= {"name": "cosmos-video", "time_stride": kwargs["temporal_compression"]}
        released = VideoTokenizerFormat()
        if (released.stride, released.time_stride) != (kwargs["spatial_compression"], kwargs["temporal_compression"]):
            pytest.skip("the registered format knows the strides of the releases")
    for name in names:
        torch.jit.script(Tree(archives(weights, kwargs["levels"])[name])).save(tmp_path / name)
    quantizer = {"name": "fsq", "levels": kwargs["levels"]}
    body = {"name": "small", "encoder": encoder, "quantizer": quantizer, "prior": "uniform", "coder": "range"}
    path = tmp_path / "small.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(body | {"weights": list(names)})), encoding="utf-8")
    codec = obverse.load(path)
    pictures, recon = io["image_u8"], io["frame.recon" if video else "recon"]
    if video:
        pictures, recon = pictures[:, :, 0], recon[:, :, 0]
    for picture, expected in zip(pictures, recon, strict=True):
        decoded = codec.decompress(codec.compress(picture.permute(1, 2, 0).numpy()))
        official = ((expected.clamp(-1, 1) + 1) / 2 * 255 + 0.5).byte().permute(1, 2, 0)  # as official code rounds
        difference = np.abs(np.asarray(decoded).astype(int) - official.numpy().astype(int))
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.99
