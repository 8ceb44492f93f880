"""Chameleon's tokenizer and Lumina-mGPT against the numbers of their official code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from goldens import Golden, goldens, official_keys
from torch import Tensor, nn

from obverse.checkpoints import translated
from obverse.config import load_config
from obverse.distributions import Distribution
from obverse.interfaces import Blocks, Coded, Condition, Layout
from obverse.loop import Known, run
from obverse.nn.autoencoder import levels_at
from obverse.nn.rotary import rotary_table
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse_lumina.prior import LuminaPrior
from obverse_lumina.vocabulary import ids_of

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
EXACT_TOLERANCE = 0.02
"""Logits of the exact form differ by the rounding of weights and activations."""

TOKENIZERS = goldens("lumina", "model.chameleon_vae_ori.vqgan.VQModel")
TRANSFORMERS = goldens(
    "lumina", "model.chameleon.modeling_chameleon.ChameleonForConditionalGeneration (model.vqmodel deleted)"
)


def loaded(golden: Golden, extra: Mapping[str, Tensor] | None = None, **modules: nn.Module) -> None:
    """Fill modules, by the prefix of their names, with the official weights and nothing else."""
    left = translated(golden.folder, golden.weights() | dict(extra or {}))
    for prefix, module in modules.items():
        own = {name: left.pop(name) for name in list(left) if name.startswith(f"{prefix}.")}
        module.load_state_dict({name.removeprefix(f"{prefix}."): tensor for name, tensor in own.items()})
        module.requires_grad_(False).eval()
    assert not left


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, atol=tolerance, rtol=tolerance)


def tokenizer(golden: Golden) -> tuple[VQAutoencoder, VectorQuantizer]:
    arguments = golden.config["args"]
    sizes = arguments["ddconfig"]
    encoder = VQAutoencoder(
        embed_dim=arguments["embed_dim"],
        z_channels=sizes["z_channels"],
        width=sizes["ch"],
        multipliers=sizes["ch_mult"],
        blocks=sizes["num_res_blocks"],
        attention_levels=levels_at(sizes["resolution"], sizes["attn_resolutions"], len(sizes["ch_mult"])),
    )
    quantizer = VectorQuantizer(size=arguments["n_embed"], dim=arguments["embed_dim"])
    loaded(golden, {"loss.discriminator.weight": torch.zeros(1)}, encoder=encoder, quantizer=quantizer)
    return encoder, quantizer


@pytest.mark.parametrize("golden", TOKENIZERS)
@torch.inference_mode()
def test_tokenizer(golden: Golden) -> None:
    encoder, quantizer = tokenizer(golden)
    found = golden.tensors()
    for suffix in (name.removeprefix("image") for name in found if name.startswith("image")):
        images = (found[f"image{suffix}"] + 1) / 2
        latents = encoder.encode(images, Condition())
        close(latents["tokens"], found[f"prequant{suffix}"])
        tokens = quantizer.symbols(latents)["tokens"]
        assert torch.equal(tokens.flatten(), found[f"indices{suffix}"])
        layout = Layout(len(images), *latents["tokens"].shape[2:])
        codes = quantizer.dequantize([Coded("tokens", tokens)], layout)
        close(codes["tokens"], found[f"quant{suffix}"])
        close(encoder.decode(codes, Condition()) * 2 - 1, found[f"recon{suffix}"])


class Recorded(LuminaPrior):
    """Keeps logits as they were before they became distributions."""

    seen: list[Tensor]

    def categorical(self, logits: Tensor) -> Distribution:
        self.seen.append(logits)
        return super().categorical(logits)

    def logits_of(self, blocks: Blocks, codes: Tensor) -> Tensor:
        """[1, T, K] of known codes [h, w]."""
        self.seen = []
        coded = run(blocks, Known({"tokens": codes.view(1, -1)}))
        positions = torch.cat([part.positions for part in coded if part.positions is not None])
        assert torch.equal(positions, torch.arange(codes.numel()))
        return torch.cat(self.seen, dim=1)


def transformer(golden: Golden, mode: str = NATIVE, prompt: Sequence[int] = ()) -> Recorded:
    config = golden.config
    sizes = config["ChameleonConfig"]
    prior = Recorded(
        codes=config["n_image_tokens"],
        vocabulary=config["vocab_size"],
        dim=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        key_heads=sizes["num_key_value_heads"],
        hidden=sizes["intermediate_size"],
        window=2 * max(config["h_grids"], config["w_grids"]),
        norm_after=sizes["swin_norm"],
        base=sizes["rope_theta"],
        prompt=prompt,
        **ids_of(config["vocabulary_map"]),
    )
    loaded(golden, prior=prior)
    return cast(Recorded, prepare(prior, mode))


def both_paths(prior: Recorded, codes: Tensor, guidance: float | None = None) -> tuple[Tensor, Tensor]:
    """Logits in one pass and step by step."""
    layout, condition = Layout(1, *codes.shape), Condition(guidance=guidance)
    forced = prior.teacher_forced({"tokens": codes.view(1, -1)}, layout, condition)
    return prior.logits_of(forced, codes), prior.logits_of(prior.blocks(layout, condition), codes)


@pytest.mark.parametrize("golden", TRANSFORMERS)
@torch.inference_mode()
def test_logits_of_codes(golden: Golden) -> None:
    found = golden.tensors()
    prior = transformer(golden)
    forced, stepwise = both_paths(prior, found["codes"])
    close(forced, found["code_logits_uncond"])
    close(stepwise, found["logits_uncond_kv"][:, found["code_positions"] - 1][..., prior.ids])


@pytest.mark.parametrize("golden", TRANSFORMERS)
@torch.inference_mode()
def test_exact_form_is_close(golden: Golden) -> None:
    found = golden.tensors()
    forced, stepwise = both_paths(transformer(golden, EXACT), found["codes"])
    assert torch.equal(forced, stepwise)
    close(forced, found["code_logits_uncond"], EXACT_TOLERANCE)


@pytest.mark.parametrize(("mode", "tolerance"), [(NATIVE, TOLERANCE), (EXACT, EXACT_TOLERANCE)])
@pytest.mark.parametrize("golden", TRANSFORMERS)
@torch.inference_mode()
def test_logits_behind_a_prompt(golden: Golden, mode: str, tolerance: float) -> None:
    """Of the codes alone, and guided: the official processor's rows begin with what predicts the fourth token."""
    found, strength = golden.tensors(), golden.config["guidance_scale"]
    places, count = found["code_positions"], found["ids_cond"].shape[1] - found["ids_uncond"].shape[1]
    prior = transformer(golden, mode, prompt=found["ids_cond"][0, :count].tolist())
    conditional = found["logits_cond_kv"][:, count + places - 1][..., prior.ids]
    guided = found["logits_cfg_kv"][:, places - 3][..., prior.ids]
    assert (conditional - found["code_logits_uncond"]).abs().max() > 0.1
    for ours in both_paths(prior, found["codes"]):
        close(ours, conditional, tolerance)
    for ours in both_paths(prior, found["codes"], strength):
        close(ours, guided, tolerance * (2 * strength - 1))


@pytest.mark.parametrize("golden", TRANSFORMERS)
def test_sequence(golden: Golden) -> None:
    found = golden.tensors()
    prior, codes = transformer(golden), found["codes"]
    sequence = prior.sequence(codes.view(1, -1), Layout(1, *codes.shape))
    assert torch.equal(sequence, found["ids_uncond"][:, : sequence.shape[1]])
    assert torch.equal(prior.ids[codes].flatten(), found["ids_uncond"][0, found["code_positions"]])


@pytest.mark.parametrize("golden", TRANSFORMERS)
@torch.inference_mode()
def test_hidden_states_behind_text(golden: Golden) -> None:
    """In one pass, and in pieces of several tokens that continue a cache."""
    found = golden.tensors()
    prior, tokens = transformer(golden), found["ids_cond"]
    length, expected = tokens.shape[1], found["logits_cond"][..., prior.ids]
    rotary = rotary_table(length, prior.model.head_dim // 2, prior.base).float()
    close(prior.logits(prior.model.hidden_states(tokens, rotary)), expected)
    caches = prior.model.caches(1, length)
    pieces = [prior.model.hidden_states(piece, rotary, caches) for piece in tokens.split(3, dim=1)]
    close(prior.logits(torch.cat(pieces, dim=1)), expected)


RELEASES = official_keys("lumina")


@pytest.mark.skipif(not RELEASES, reason="no list of official keys")
@pytest.mark.parametrize("codec", ["chameleon-vq", "lumina-7b-512", "lumina-7b-768", "lumina-7b-1024"])
@pytest.mark.parametrize("transformer", ["lumina_mgpt_7b", "chameleon_7b_hf_with_vq_encoder"])
def test_released_files_fill_named_codecs(codec: str, transformer: str) -> None:
    with torch.device("meta"):
        modules = build(load_config(codec)).modules
    expected = {f"{part}.{key}": value.shape for part in modules for key, value in modules[part].state_dict().items()}
    tensors = official("chameleon_vqgan")
    if codec != "chameleon-vq":
        tensors |= official(transformer)
    assert {key: value.shape for key, value in tensors.items()} == expected


def official(release: str) -> dict[str, Tensor]:
    """Tensors of a release without data, under our names."""
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in RELEASES[release].items()}
    return translated(Path(release), tensors)
