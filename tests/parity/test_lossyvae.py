"""QRes-VAE, QARV, DHVC's first frames and DHIC against the official code.

Sizes of fixtures are those of their weights: configurations of fixtures name official arguments only in part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import ROOT, Golden, official_keys
from torch import Tensor

from obverse.checkpoints import recognised, translated
from obverse.codec import Codec, from_config
from obverse.coders.ideal import IdealEncoder
from obverse.config import CodecConfig, load_config
from obverse.errors import WeightsError
from obverse.hyperprior import SMALLEST_SCALE
from obverse.interfaces import Block, Coded, Condition, Layout
from obverse.loop import Mixture, Quantized, Sampling, Source, run
from obverse.numerics import EXACT, NATIVE
from obverse.pipeline import build_hollow
from obverse.testing import check_roundtrip
from obverse_lossyvae.operating_points import LambdaEmbedding
from obverse_lossyvae.top_down import Entry, z_of

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
RELEASES = {
    "qres34m": "qres34m",
    "qres34m_lossless": "qres34m-lossless",
    "qres17m": "qres17m",
    "qarv_base": "qarv",
    "dhvc1_base": "dhvc1-intra",
    "dhic": "dhic",
}
"""Groups of official files, and our codecs."""

NO_CODECS = {"rd_model_base"}
"""A bound on rates, with continuous latents."""

Shapes = dict[str, tuple[int, ...]]


def close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours.to(official.dtype), official, atol=TOLERANCE, rtol=TOLERANCE)


def folders(*systems: str) -> list[Any]:
    """Every fixture of some systems."""
    found = [Golden(path.parent) for path in sorted((ROOT / "lossy_vae").glob("**/config.json"))]
    found = [golden for golden in found if golden.config.get("system") in systems]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no fixtures under {ROOT / 'lossy_vae'}"), id="none")]
    return [pytest.param(golden, id=golden.folder.name) for golden in found]


ALL = folders("qres-vae", "qarv", "dhvc-1.0", "dhic")


def layers(shapes: Shapes, prefix: str) -> dict[int, Shapes]:
    """Shapes of the entries of an official module list."""
    found: dict[int, Shapes] = {}
    for key, shape in shapes.items():
        if key.startswith(prefix):
            number, _, rest = key.removeprefix(prefix).partition(".")
            found.setdefault(int(number), {})[rest] = shape
    return dict(sorted(found.items()))


def bottom_up(shapes: Shapes) -> dict[str, list[int]]:
    """Sizes of a bottom-up path of ConvNeXt blocks."""
    found: dict[str, list[int]] = {"widths": [], "blocks": [], "kernels": [], "rates": []}
    path = layers(shapes, "encoder.enc_blocks.")
    for number, layer in path.items():
        down = next((layer[key] for key in ("weight", "downsapmle.weight", "1.weight") if key in layer), None)
        if down is not None:
            found["widths"].append(down[0])
            found["blocks"].append(0)
            found["kernels"].append(1)
            found["rates"].append(2 if down[2] == 3 else down[2])
        elif "weight" not in path.get(number + 1, {}):  # where it is, the block leaves the grid
            found["blocks"][-1] += 1
            found["kernels"][-1] = layer["conv_dw.weight"][2]
    return found


def top_down(path: Mapping[int, Shapes], posterior: str) -> dict[str, list[Any]]:
    """Sizes of the grids of a top-down path of ConvNeXt blocks, from the coarsest."""
    found: dict[str, list[Any]] = {"widths": [], "latents": [], "blocks": [], "kernels": [], "ratios": []}
    finer = True
    for layer in path.values():
        if "z_proj.weight" not in layer and "z_proj.0.weight" not in layer:
            finer = finer or "0.weight" in layer or "weight" in layer
            continue
        if finer:
            width, _, _, kernel = (*layer["resnet_front.conv_dw.weight"][:3], layer["resnet_front.conv_dw.weight"][3])
            found["widths"].append(width)
            found["latents"].append(layer[posterior][0])
            found["blocks"].append(0)
            found["kernels"].append(kernel)
            found["ratios"].append(layer["resnet_front.mlp.fc1.weight"][0] / width)
            finer = False
        found["blocks"][-1] += 1
    return found


def last(levels: Mapping[str, list[Any]], *names: str) -> dict[str, Any]:
    """Sizes of the last latent block."""
    singular = {"widths": "last_width", "latents": "last_latents", "kernels": "last_kernel", "ratios": "last_ratio"}
    return {singular[name]: levels[name][-1] for name in names} | {"last_block": sum(levels["blocks"]) - 1}


def fine(path: Mapping[int, Shapes]) -> dict[str, Any]:
    """Sizes of the blocks after the last grid with latents."""
    up = max(number for number in list(path)[:-1] if "0.weight" in path[number])
    blocks = [layer for number, layer in path.items() if number > up and "conv_dw.weight" in layer]
    width, _, _, kernel = blocks[0]["conv_dw.weight"]
    ratio = blocks[0]["mlp.fc1.weight"][0] / width
    return {"fine_width": width, "fine_blocks": len(blocks), "fine_kernel": kernel, "fine_ratio": ratio}


def without(sizes: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in sizes.items() if key not in names}


def qres_parts(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    levels = without(top_down(layers(shapes, "decoder.dec_blocks."), "posterior.c4.weight"), "ratios")
    image = {"shift": config["im_shift"], "scale": config["im_scale"]}
    encoder = {**bottom_up(shapes), **last(levels, "widths", "latents", "kernels"), **image}
    return {"encoder": encoder, "quantizer": levels, "prior": levels}


def qarv_parts(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    path = layers(shapes, "dec_blocks.")
    levels = top_down(path, "posterior.weight")
    told = {"lambdas": sorted(config["lmbs"]), "embedding": shapes["lmb_embedding.0.weight"][0]}
    encoder = {**bottom_up(shapes), **last(levels, "widths", "latents", "kernels", "ratios"), **fine(path), **told}
    quantizer = {**without(levels, "ratios"), "embedding": told["embedding"]}
    return {"encoder": encoder, "quantizer": quantizer, "prior": {**levels, **told}}


def dhvc_parts(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    path = layers(shapes, "dec_blocks.")
    levels = top_down(path, "posterior.weight")
    names = {name: f"level_{name}" for name in ("widths", "blocks", "kernels", "ratios")} | {"latents": "latents"}
    downward = {names[name]: values for name, values in levels.items()}
    prior = {**levels, "temporal": shapes["dec_blocks.0.tcp.enc1.0.weight"][0]}
    encoder = {**bottom_up(shapes), **downward, **fine(path)}
    return {"encoder": encoder, "quantizer": without(levels, "ratios"), "prior": prior}


def counts(path: Mapping[int, Shapes], middle: str) -> dict[str, list[int]]:
    """Blocks of DHIC before and after a kind of layer, on each grid."""
    before, after = [0], [0]
    passed = False
    for layer in path.values():
        if "0.weight" in layer:
            before.append(0)
            after.append(0)
            passed = False
        elif middle in layer:
            passed = True
        elif "pc1.weight" in layer:
            (after if passed else before)[-1] += 1
    return {"before": before, "after": after}


def dhic_parts(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    path = layers(shapes, "em_blocks.")
    heads = [layer["prior.weight"] for layer in path.values() if "prior.weight" in layer]
    levels = {"widths": [head[1] for head in heads], "latents": [head[0] // 2 for head in heads]}
    stages, blocks = [], [0]
    for layer in layers(shapes, "encoder.enc_blocks.").values():
        if "weight" in layer:
            stages.append(layer["weight"][0])
            blocks.append(0)
        else:
            blocks[-1] += 1
    told = {"points": sorted(config["qps"]), "table": config["q_num"]}
    upward = counts(layers(shapes, "dec_blocks."), "outlayer.weight")
    encoder = {"widths": stages, "stem_blocks": blocks[0], "blocks": blocks[1:], **upward, **told}
    encoder |= {"level_widths": levels["widths"], "latents": levels["latents"]}
    around = counts(path, "prior.weight")
    assert around["after"].pop() == 0
    return {"encoder": encoder, "quantizer": levels, "prior": {**levels, **around, **told}}


PARTS = {
    "qres-vae": ("qres", "qres", qres_parts),
    "qarv": ("qarv", "qarv", qarv_parts),
    "dhvc-1.0": ("dhvc-intra", "dhvc1", dhvc_parts),
    "dhic": ("dhic", "dhic", dhic_parts),
}
"""By system: name of our components, name of the format, sizes."""


class Model:
    """A fixture as a codec in a numerics mode."""

    def __init__(self, golden: Golden, mode: str = NATIVE) -> None:
        self.io, self.settings = golden.tensors(), golden.config
        shapes = {key: tuple(tensor.shape) for key, tensor in golden.weights().items()}
        name, _, sizes = PARTS[self.settings["system"]]
        parts = {part: {"name": name, **own} for part, own in sizes(shapes, self.settings).items()}
        config = CodecConfig("official", parts | {"coder": {"name": "range"}}, (golden.folder / "weights.safetensors",))
        self.codec: Codec = from_config(config, numerics=mode)
        self.pipeline = self.codec.pipeline
        self.image = self.io["frame_0" if "frame_0" in self.io else "image"]

    def cases(self) -> Iterator[tuple[str, Condition]]:
        """The beginning of the names of each operating point's numbers, and the point."""
        prefixes = {
            "qres-vae": lambda: [""],
            "qarv": lambda: [f"lmb{value}_" for value in sorted(self.settings["lmbs"])],
            "dhvc-1.0": lambda: ["frame_0_"],
            "dhic": lambda: [f"qp{value}_" for value in sorted(self.settings["qps"])],
        }[self.settings["system"]]()
        for quality, prefix in enumerate(prefixes):
            yield prefix, Condition(quality)

    @property
    def layout(self) -> Layout:
        stride = self.pipeline.encoder.stride
        return Layout(len(self.image), self.image.shape[2] // stride, self.image.shape[3] // stride)

    @torch.inference_mode()
    def coded(self, condition: Condition, source: Source | None = None) -> list[Coded]:
        """The blocks of the fixture's image, or of another source."""
        source = source or self.quantized(condition)
        return run(self.pipeline.prior.blocks(self.layout, condition), source)

    def quantized(self, condition: Condition) -> Source:
        return Quantized(self.pipeline.quantizer, self.pipeline.encoder.encode(self.image, condition))

    @torch.inference_mode()
    def picture(self, coded: list[Coded], condition: Condition) -> Tensor:
        return self.pipeline.encoder.decode(self.pipeline.quantizer.dequantize(coded, self.layout), condition)

    def official_bits(self, prefix: str) -> float:
        """The official estimate for the fixture's image."""
        nats = [tensor.sum() for name, tensor in self.io.items() if name.startswith(f"{prefix}kl_nats_")]
        if nats:
            return float(sum(nats)) / math.log(2)
        return float(self.settings["bpp_forward"][0] * self.image[0, 0].numel())

    def clamped(self, coded: list[Coded], condition: Condition) -> Tensor:
        """As the official models of lossy-vae hand out pictures; those of DHVC do not clamp."""
        picture = self.picture(coded, condition)
        return picture.clamp(0, 1) if self.settings["system"] in ("qres-vae", "qarv") else picture


class Counted:
    """Symbols of another source, whose ideal bits an encoder counts."""

    def __init__(self, source: Source, encoder: IdealEncoder) -> None:
        self.source, self.encoder = source, encoder

    def __call__(self, block: Block) -> Tensor:
        symbols = self.source(block)
        self.encoder.put(symbols, block.distribution)
        return symbols


def official_indexes(scale: Tensor, system: str) -> Tensor:
    """Positions in the official table of 64 scales."""
    smallest = 0.1 if system == "qres-vae" else 0.11
    table = torch.exp(torch.linspace(math.log(smallest), math.log(20), 64))
    return 63 - (scale.clamp(min=SMALLEST_SCALE)[..., None] <= table[:-1]).sum(-1)


@pytest.mark.parametrize("golden", ALL)
class TestOfficial:
    def test_is_recognised(self, golden: Golden) -> None:
        shapes = {key: tuple(tensor.shape) for key, tensor in golden.weights().items()}
        component = recognised(Path("model.pt"), shapes)
        assert component is not None
        assert component.name == PARTS[golden.config["system"]][1]

    def test_symbols_and_indexes(self, golden: Golden) -> None:
        model = Model(golden)
        for prefix, condition in model.cases():
            coded = model.coded(condition)
            assert f"{prefix}coded_{len(coded)}_symbols" not in model.io
            for i, part in enumerate(coded):
                assert torch.equal(part.symbols.flatten(), model.io[f"{prefix}coded_{i}_symbols"].long())
                indexes = official_indexes(part.context["scale"], model.settings["system"])
                assert torch.equal(indexes.flatten(), model.io[f"{prefix}coded_{i}_indexes"].long())

    def test_latents_and_scales(self, golden: Golden) -> None:
        model = Model(golden)
        first = 1 if model.settings["system"] == "dhic" else 0
        for prefix, condition in model.cases():
            for i, part in enumerate(model.coded(condition), first):
                for name, ours in (("z", z_of(part.symbols, part.context)), ("scales", part.context["scale"])):
                    if f"{prefix}{name}_{i}" in model.io:
                        close(ours, model.io[f"{prefix}{name}_{i}"])

    def test_pictures(self, golden: Golden) -> None:
        model = Model(golden)
        for prefix, condition in model.cases():
            picture = model.clamped(model.coded(condition), condition)
            close(picture, model.io[f"{prefix}decompress_x_hat"])
            close(picture, model.io[f"{prefix}forward_x_hat"])
            if f"{prefix}forward_raw" in model.io:
                raw = model.picture(model.coded(condition), condition) * 2 - 1
                close(raw, model.io[f"{prefix}forward_raw"])

    def test_pictures_of_the_prior_alone(self, golden: Golden) -> None:
        model = Model(golden)
        for prefix, condition in model.cases():
            mode = Sampling(torch.Generator().manual_seed(0), temperature=0)
            coded = model.coded(condition, mode)
            assert not any(part.symbols.any() for part in coded), "the mode is the mean"
            for name in ("uncond_sample_t0", "prior_mean_image"):
                if f"{prefix}{name}" in model.io:
                    close(model.clamped(coded, condition), model.io[f"{prefix}{name}"])

    def test_estimated_rate(self, golden: Golden) -> None:
        """In exact arithmetic, with our tables of scales, streams are as long as the official estimate, or shorter.

        Symbols far from their means, which random weights have, count up to 30 bits there and are escapes here.
        """
        model = Model(golden, EXACT)
        for prefix, condition in model.cases():
            encoder = IdealEncoder()
            model.coded(condition, Counted(model.quantized(condition), encoder))
            official = model.official_bits(prefix)
            assert 0.7 * official <= encoder.bits <= 1.003 * official + 128

    def test_exact_symbols_are_near(self, golden: Golden) -> None:
        model = Model(golden, EXACT)
        for prefix, condition in model.cases():
            coded = model.coded(condition)
            total = sum(part.symbols.numel() for part in coded)
            other = sum(
                int((part.symbols.flatten() != model.io[f"{prefix}coded_{i}_symbols"]).sum())
                for i, part in enumerate(coded)
            )
            assert other <= 0.01 * total
            error = model.clamped(coded, condition) - model.io[f"{prefix}decompress_x_hat"]
            assert float(error.square().mean().sqrt()) < 0.01

    def test_codec(self, golden: Golden) -> None:
        codec = Model(golden, EXACT).codec
        pixels = Model(golden).image[0].permute(1, 2, 0)[:-3, :-5].numpy()
        for quality in range(1, codec.qualities + 1):
            check_roundtrip(codec, pixels, quality=quality)


@pytest.mark.parametrize("golden", folders("qres-vae", "qarv"))
def test_first_levels_of_a_picture_and_the_rest_sampled(golden: Golden) -> None:
    """`cond_sample` of the official code, by the loop; with all levels known it is the picture."""
    model = Model(golden)
    for prefix, condition in model.cases():
        coded = model.coded(condition)
        arrays = {part.name: part.symbols for part in coded}
        nothing = Sampling(torch.Generator().manual_seed(0))
        every = model.clamped(model.coded(condition, Mixture(arrays, nothing)), condition)
        close(every, model.io.get("cond_sample_from_latents", model.io[f"{prefix}decompress_x_hat"]))
        known = {name: arrays[name] for name in list(arrays)[:2]}
        mixed = model.coded(condition, Mixture(known, Sampling(torch.Generator().manual_seed(1))))
        again = model.coded(condition, Mixture(known, Sampling(torch.Generator().manual_seed(1))))
        assert all(torch.equal(part.symbols, known[part.name]) for part in mixed[:2])
        assert any(not torch.equal(part.symbols, arrays[part.name]) for part in mixed[2:])
        assert all(torch.equal(ours.symbols, theirs.symbols) for ours, theirs in zip(mixed, again, strict=True))


@pytest.mark.parametrize("golden", folders("qarv"))
def test_embeddings(golden: Golden) -> None:
    model = Model(golden)
    embedding = model.pipeline.encoder.lambda_embedding  # type: ignore[attr-defined]
    assert isinstance(embedding, LambdaEmbedding)
    for prefix, condition in model.cases():
        close(embedding(condition.quality), model.io[f"{prefix}lmb_embedding"])
        assert torch.equal(embedding(condition.quality), model.coded(condition)[0].context["embedding"])


@pytest.mark.parametrize("golden", folders("dhvc-1.0"))
def test_features_for_the_next_frame(golden: Golden) -> None:
    model = Model(golden)
    encoder = model.pipeline.encoder
    entries = [part for part in encoder.modules() if isinstance(part, Entry)]  # type: ignore[attr-defined]
    for prefix, condition in model.cases():
        coded = model.coded(condition)
        assert len(entries) == len(coded)
        for i, (entry, part) in enumerate(zip(entries, coded, strict=True)):
            z = z_of(part.symbols, part.context)
            close(entry(part.context["feature"], z), model.io[f"{prefix}ctx_out_{i}"])


def hollow(group: str) -> dict[str, Tensor]:
    """The tensors of an official file, without data; a length that depends on tables is 0."""
    listed = official_keys("lossy_vae")[group]
    return {key: torch.empty([side or 0 for side in shape], device="meta") for key, (shape, _) in listed.items()}


@pytest.mark.skipif(not official_keys("lossy_vae"), reason="no list of official keys (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("group", official_keys("lossy_vae"))
def test_every_tensor_of_a_release_has_its_place(group: str) -> None:
    tensors = hollow(group)
    if group in NO_CODECS:
        with pytest.raises(WeightsError, match="no installed format"):
            translated(Path("model.pt"), tensors)
        return
    pipeline = build_hollow(load_config(RELEASES[group]))
    ours = {
        f"{part}.{key}": tensor.shape
        for part, module in pipeline.modules.items()
        for key, tensor in module.state_dict().items()
    }
    assert {key: tensor.shape for key, tensor in translated(Path("model.pt"), tensors).items()} == ours
