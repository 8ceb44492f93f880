"""Tokens, pictures and logits are those of taming-transformers.

Native logits are within 1e-4 of the official ones, whose own two paths differ by up to 3e-5; exact ones within 0.02,
where the standard deviation of logits is about 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import pytest
import torch
from goldens import Golden, goldens, official_keys
from torch import Tensor, nn

from obverse.checkpoints import CheckpointFormat
from obverse.config import load_config
from obverse.distributions import Distribution
from obverse.interfaces import Coded, Condition, Layout
from obverse.loop import Known, run
from obverse.minimal_gpt import MinimalGPT
from obverse.nn.autoencoder import levels_at
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build
from obverse.taming import TokenizerFile
from obverse.vq import TokenQuantizer, VectorQuantizer, VQAutoencoder
from obverse_vqgan.checkpoints import Net2NetFile, TransformerFile
from obverse_vqgan.quantizers import GumbelQuantizer

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
NEAR = 0.02
RELEASES = {
    "vqgan-f16-1024": ("vqgan_imagenet_f16_1024", None),
    "vqgan-f16-16384": ("vqgan_imagenet_f16_16384", None),
    "vqgan-f8-256": ("vqgan_openimages_f8_256", None),
    "vqgan-f8-16384": ("vqgan_openimages_f8_16384", None),
    "vqgan-gumbel-f8": ("vqgan_gumbel_f8", None),
    "vqgan-coco": ("coco_or_openimages_8k_vqgan", None),
    "vqgan-ffhq": ("vqgan_imagenet_f16_1024", "ffhq_celebahq_gpt"),
    "vqgan-celebahq": ("vqgan_imagenet_f16_1024", "ffhq_celebahq_gpt"),
    "vqgan-cin": ("vqgan_imagenet_f16_16384", "cin_gpt"),
}
"""Official tokenizer and transformer of each codec."""


def loaded(modules: Mapping[str, nn.Module], kind: CheckpointFormat, official: Mapping[str, Tensor]) -> None:
    """Fill parts from official tensors, strictly."""
    assert kind.recognises({name: tuple(value.shape) for name, value in official.items()})
    ours = {f"{part}.{name}" for part, module in modules.items() for name in module.state_dict()}
    translated = kind.translate(official)
    assert translated.keys() == ours
    for part, module in modules.items():
        prefix = f"{part}."
        own = {name.removeprefix(prefix): value for name, value in translated.items() if name.startswith(prefix)}
        module.load_state_dict(own)
        module.eval()


def tokenizer(golden: Golden) -> tuple[VQAutoencoder, TokenQuantizer]:
    config = golden.config
    arguments, sizes = config["args"], config["args"]["ddconfig"]
    encoder = VQAutoencoder(
        embed_dim=arguments["embed_dim"],
        z_channels=sizes["z_channels"],
        width=sizes["ch"],
        multipliers=sizes["ch_mult"],
        blocks=sizes["num_res_blocks"],
        attention_levels=levels_at(sizes["resolution"], sizes["attn_resolutions"], len(sizes["ch_mult"])),
    )
    kind = GumbelQuantizer if config["official_class"].endswith("GumbelVQ") else VectorQuantizer
    quantizer = kind(size=arguments["n_embed"], dim=arguments["embed_dim"])
    loaded({"encoder": encoder, "quantizer": quantizer}, TokenizerFile(), golden.weights())
    return encoder, quantizer


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.to(theirs), theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("suffix", ["", "_rect"])
@pytest.mark.parametrize("golden", goldens("taming", "taming.models.vqgan.VQModel", "taming.models.vqgan.GumbelVQ"))
@torch.inference_mode()
def test_tokenizer(golden: Golden, suffix: str) -> None:
    tensors = {
        name.removesuffix("_rect"): value
        for name, value in golden.tensors().items()
        if name.endswith("_rect") == bool(suffix)
    }
    if not tensors:
        pytest.skip(f"{golden.folder.name} has no such pictures")
    encoder, quantizer = tokenizer(golden)
    latents = encoder.encode((tensors["image"] + 1) / 2, Condition())
    close(latents["tokens"], tensors["prequant"])
    if "encoder_out" in tensors:
        close(encoder.encoder(tensors["image"]), tensors["encoder_out"])

    indices = tensors["indices"] if "indices" in tensors else tensors["indices_argmax"]
    tokens = quantizer.symbols(latents)["tokens"]
    assert torch.equal(tokens.flatten(), indices.flatten())

    layout = Layout(len(tokens), *latents["tokens"].shape[2:])
    values = quantizer.dequantize([Coded("tokens", tokens)], layout)
    assert torch.equal(values["tokens"], tensors["quant"])
    close(encoder.decode(values, Condition()) * 2 - 1, tensors["recon"])


class Watched(MinimalGPT):
    """Keeps the logits of its blocks."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[Tensor] = []

    def categorical(self, logits: Tensor) -> Distribution:
        self.seen.append(logits)
        return super().categorical(logits)


def prior(golden: Golden, length: int, classes: int | None, start: int, mode: str) -> tuple[Watched, Layout]:
    """The prior, and a layout with `length` cells whose positions follow each other."""
    arguments = golden.config["args"]
    side = isqrt(length)
    height, width = (side, side) if side**2 == length else (1, length)
    made = Watched(
        vocabulary=arguments["vocab_size"],
        dim=arguments["n_embd"],
        layers=arguments["n_layer"],
        heads=arguments["n_head"],
        window=width,
        positions=arguments["block_size"],
        classes=classes,
        start=start,
    )
    loaded({"prior": made}, TransformerFile(), golden.weights())
    prepared = prepare(made, mode)
    assert isinstance(prepared, Watched)
    return prepared, Layout(1, height, width)


@pytest.mark.parametrize("kind", ["sos", "class"])
@pytest.mark.parametrize(("mode", "tolerance"), [(NATIVE, TOLERANCE), (EXACT, NEAR)])
@pytest.mark.parametrize("golden", goldens("taming", "taming.modules.transformer.mingpt.GPT"))
@torch.inference_mode()
def test_prior(golden: Golden, mode: str, tolerance: float, kind: str) -> None:
    tensors = golden.tensors()
    firsts = tensors["sos_ids" if kind == "sos" else "class_ids"].tolist()
    for row, first in enumerate(firsts):
        tokens = tensors["tokens"][row : row + 1]
        classes = None if kind == "sos" else golden.config["args"]["vocab_size"]
        made, layout = prior(golden, tokens.shape[1], classes, first if kind == "sos" else 0, mode)
        condition, known = Condition(label=None if kind == "sos" else first), Known({"tokens": tokens})

        run(made.teacher_forced({"tokens": tokens}, layout, condition), known)
        close(torch.cat(made.seen, dim=1)[0], tensors[f"logits_{kind}"][row], tolerance)
        made.seen.clear()
        run(made.blocks(layout, condition), known)
        close(torch.cat(made.seen, dim=1)[0], tensors[f"logits_{kind}_kv"][row], tolerance)


def released(name: str) -> dict[str, Tensor]:
    """Official tensors without data."""
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in official_keys("taming")[name].items()
    }


@pytest.mark.skipif(not official_keys("taming"), reason="no official keys of taming")
@pytest.mark.parametrize("name", RELEASES)
def test_official_files_fit(name: str) -> None:
    """As separate files, and as one with the networks of the loss and of the condition."""
    with torch.device("meta"):
        modules = build(load_config(name)).modules
    ours = {
        f"{part}.{key}": value.shape for part, module in modules.items() for key, value in module.state_dict().items()
    }
    first, second = RELEASES[name]
    tokenizer = released(first) | {"loss.discriminator.main.0.weight": torch.empty(1, device="meta")}
    found = TokenizerFile().translate(tokenizer)
    if second is not None:
        transformer = released(second)
        found |= TransformerFile().translate(transformer)
        whole = {f"first_stage_model.{key}": value for key, value in tokenizer.items()}
        whole |= {f"transformer.{key}": value for key, value in transformer.items()}
        whole |= {"cond_stage_model.colorize": torch.empty(1, device="meta")}
        assert Net2NetFile().recognises({key: tuple(value.shape) for key, value in whole.items()})
        assert Net2NetFile().translate(whole).keys() == found.keys()
    assert {key: value.shape for key, value in found.items()} == ours


@pytest.mark.skipif(not official_keys("taming"), reason="no official keys of taming")
@pytest.mark.parametrize("name", ["drin_and_faceshq_gpt", "coco_scene_gpt"])
def test_transformers_behind_longer_conditions_fit(name: str) -> None:
    arguments = official_keys("taming", "releases.json")["releases"][name]["args"]
    with torch.device("meta"):
        made = MinimalGPT(
            vocabulary=arguments["vocab_size"],
            dim=arguments["n_embd"],
            layers=arguments["n_layer"],
            heads=arguments["n_head"],
            positions=arguments["block_size"],
        )
    found = TransformerFile().translate(released(name))
    assert {key: value.shape for key, value in found.items()} == {
        f"prior.{key}": value.shape for key, value in made.state_dict().items()
    }
