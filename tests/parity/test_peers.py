"""Networks of transformers and diffusers give the tokens, pictures and logits of ours, with the same random weights.

A second witness beside the fixtures of official code: nothing is downloaded, and what is not installed is skipped.

    pip install -c constraints.txt -e '.[dev,parity]'
    python -m pytest -m peers
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.distributions import Distribution
from obverse.interfaces import Blocks, Coded, Condition, Layout
from obverse.loop import Known, run
from obverse.nn.rotary import rotary_table
from obverse.numerics import NATIVE, prepare
from obverse.taming import TokenizerFile
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse_llamagen.checkpoints import TokenizerFormat
from obverse_lumina.checkpoints import LuminaTransformer
from obverse_lumina.prior import LuminaPrior
from obverse_lumina.vocabulary import BEGIN, ROW_END, grid_name, ids_of, image_name

pytestmark = pytest.mark.peers

TOLERANCE = 1e-4
CODES, DIM, CHANNELS, WIDTH = 64, 8, 16, 32
"""Of all tokenizers here: codes, their width, channels before the projection, and of the first convolution."""

SIZES = pytest.mark.parametrize(
    ("multipliers", "blocks", "height", "width"), [((1, 2), 1, 8, 12), ((1, 1, 2), 2, 24, 16)]
)


def package(name: str) -> Any:
    """A module of a peer, or the reason why a test is skipped."""
    return pytest.importorskip(name, reason=f"{name} cannot be imported (extra parity)", exc_type=ImportError)


def seeded(peer: nn.Module) -> None:
    """Give every tensor values that leave a trace: also weights and biases of norms, which begin as ones and zeros."""
    generator = torch.Generator().manual_seed(len(list(peer.parameters())))
    for name, tensor in peer.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 or "norm" in name:
            tensor.data += 0.1 * noise
        else:
            tensor.data = noise / tensor[0].numel() ** 0.5
    peer.eval()


def pictures(height: int, width: int) -> Tensor:
    """Two, [2, 3, H, W] in 0…1."""
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def fill(tensors: Mapping[str, Tensor], absent: str = "none", **modules: nn.Module) -> None:
    """Load all tensors; only those of modules whose names begin with `absent` may be missing."""
    left = dict(tensors)
    for part, module in modules.items():
        own = {name: left.pop(name) for name in list(left) if name.startswith(f"{part}.")}
        found = module.load_state_dict({k.removeprefix(f"{part}."): v for k, v in own.items()}, strict=False)
        assert not found.unexpected_keys
        assert all(name.startswith(absent) for name in found.missing_keys)
        module.eval()
    assert not left


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def autoencoder(multipliers: tuple[int, ...], blocks: int, attention: int) -> VQAutoencoder:
    """With attention at one level besides the middle."""
    return VQAutoencoder(
        embed_dim=DIM,
        z_channels=CHANNELS,
        width=WIDTH,
        multipliers=multipliers,
        blocks=blocks,
        attention_levels=[attention],
    )


def varied(tokens: Tensor) -> None:
    """Not always the same code, which would prove little."""
    assert len(tokens.unique()) > tokens.numel() // 4


@SIZES
@torch.inference_mode()
def test_chameleon_tokens(multipliers: tuple[int, ...], blocks: int, height: int, width: int) -> None:
    chameleon = package("transformers.models.chameleon.modeling_chameleon")
    last = len(multipliers) - 1
    config = chameleon.ChameleonVQVAEConfig(
        embed_dim=DIM,
        num_embeddings=CODES,
        latent_channels=CHANNELS,
        resolution=64,
        base_channels=WIDTH,
        channel_multiplier=multipliers,
        num_res_blocks=blocks,
        attn_resolutions=[64 >> last],
    )
    peer = chameleon.ChameleonVQVAE(config)
    seeded(peer)
    encoder, quantizer = autoencoder(multipliers, blocks, last), VectorQuantizer(size=CODES, dim=DIM)
    fill(TokenizerFile().translate(peer.state_dict()), "decoder.", encoder=encoder, quantizer=quantizer)

    images = pictures(height, width)
    theirs = peer.encode(images * 2 - 1)
    close(encoder.encoder(images * 2 - 1), theirs.last_hidden_state)
    tokens = quantizer.symbols(encoder.encode(images, Condition()))["tokens"]
    assert torch.equal(tokens.flatten(), theirs.image_tokens)
    varied(tokens)


LLAMAGEN = (
    ("encoder.down.", "encoder.conv_blocks."),
    ("decoder.up.", "decoder.conv_blocks."),
    (".block.", ".res."),
    ("mid.block_1.", "mid.0."),
    ("mid.attn_1.", "mid.1."),
    ("mid.block_2.", "mid.2."),
)
"""Names in Janus, and official ones."""


@SIZES
@torch.inference_mode()
def test_janus_tokens_and_pictures(multipliers: tuple[int, ...], blocks: int, height: int, width: int) -> None:
    """Janus has LlamaGen's tokenizer.

    The peer looks for the nearest code without bringing both to length one before, as LlamaGen and Janus do; they are
    here when it gets them. Decoding, it brings codes to length one itself. It decodes squares alone.
    """
    janus = package("transformers.models.janus.modeling_janus")
    config = janus.JanusVQVAEConfig(
        embed_dim=DIM,
        num_embeddings=CODES,
        latent_channels=CHANNELS,
        base_channels=WIDTH,
        channel_multiplier=multipliers,
        num_res_blocks=blocks,
        num_patches=4,
    )
    peer = janus.JanusVQVAE(config)
    seeded(peer)
    official = {}
    for name, tensor in peer.state_dict().items():
        for theirs, ours in LLAMAGEN:
            name = name.replace(theirs, ours)
        official[name] = tensor.clone()
    assert TokenizerFormat().recognises(shapes(official))
    encoder = autoencoder(multipliers, blocks, len(multipliers) - 1)
    quantizer = VectorQuantizer(size=CODES, dim=DIM, unit=True)
    fill(TokenizerFormat().translate(official), encoder=encoder, quantizer=quantizer)

    images = pictures(height, width)
    expected = peer.quant_conv(peer.encode(images * 2 - 1).last_hidden_state)
    latents = encoder.encode(images, Condition())
    close(latents["tokens"], expected)
    tokens = quantizer.symbols(latents)["tokens"]
    peer.quantize.embedding.weight.data = F.normalize(peer.quantize.embedding.weight.data)
    assert torch.equal(tokens.flatten(), peer.quantize(F.normalize(expected, dim=1))[2])
    varied(tokens)

    drawn = torch.randint(CODES, (2, 16), generator=torch.Generator().manual_seed(0))
    codes = quantizer.dequantize([Coded("tokens", drawn)], Layout(2, 4, 4))
    close(encoder.decode(codes, Condition()) * 2 - 1, peer.decode(drawn))


def taming(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """The official name of a tensor of diffusers, and its official shape."""
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
    name = (
        name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.").replace("conv_shortcut", "nin_shortcut")
    )
    name = name.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
    name = name.replace("conv_norm_out.", "norm_out.").replace("group_norm.", "norm.")
    attention = re.search(r"\.(to_([qkv])|(to_out\.0))\.", name)
    if attention:
        name = name.replace(attention[1], attention[2] or "proj_out")
        tensor = tensor if name.endswith("bias") else tensor[:, :, None, None]
    return name, tensor


@SIZES
@torch.inference_mode()
def test_diffusers_tokens_and_pictures(multipliers: tuple[int, ...], blocks: int, height: int, width: int) -> None:
    diffusers = package("diffusers.models.autoencoders.vq_model")
    levels = len(multipliers)
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    down[1], up[levels - 2] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    peer = diffusers.VQModel(
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(WIDTH * factor for factor in multipliers),
        layers_per_block=blocks,
        latent_channels=CHANNELS,
        num_vq_embeddings=CODES,
        vq_embed_dim=DIM,
    )
    seeded(peer)
    official = dict(taming(name, tensor, levels) for name, tensor in peer.state_dict().items())
    assert TokenizerFile().recognises(shapes(official))
    encoder, quantizer = autoencoder(multipliers, blocks, 1), VectorQuantizer(size=CODES, dim=DIM)
    fill(TokenizerFile().translate(official), encoder=encoder, quantizer=quantizer)

    images = pictures(height, width)
    theirs = peer.encode(images * 2 - 1).latents
    latents = encoder.encode(images, Condition())
    close(latents["tokens"], theirs)
    tokens = quantizer.symbols(latents)["tokens"]
    assert torch.equal(tokens.flatten(), peer.quantize(theirs)[2][2])
    varied(tokens)
    codes = quantizer.dequantize([Coded("tokens", tokens)], Layout(2, *theirs.shape[2:]))
    close(encoder.decode(codes, Condition()) * 2 - 1, peer.decode(theirs).sample)


class Recorded(LuminaPrior):
    """Keeps logits as they were before they became distributions."""

    seen: list[Tensor]

    def categorical(self, logits: Tensor) -> Distribution:
        self.seen.append(logits)
        return super().categorical(logits)

    def logits_of(self, blocks: Blocks, codes: Tensor) -> Tensor:
        """[1, T, K] of known codes [1, T]."""
        self.seen = []
        run(blocks, Known({"tokens": codes}))
        return torch.cat(self.seen, dim=1)


@pytest.mark.parametrize(("key_heads", "norm_after"), [(4, False), (2, False), (2, True)])
@torch.inference_mode()
def test_chameleon_logits(key_heads: int, norm_after: bool) -> None:
    """Of codes in one pass and step by step, and hidden states of the whole sequence.

    The peer's logits of image tokens are masked, so its head is applied to its hidden states here.
    """
    chameleon = package("transformers.models.chameleon.modeling_chameleon")
    special = [BEGIN, ROW_END, *(grid_name(patches) for patches in range(1, 5)), "<image>"]
    images = [image_name(code) for code in reversed(range(19))]  # ids do not follow the order of codes
    names = {name: token for token, name in enumerate([*special, *images])}
    config = chameleon.ChameleonConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        swin_norm=norm_after,
        vocabulary_map=names,
        vq_config={"base_channels": WIDTH, "channel_multiplier": [1], "num_embeddings": 19},
    )
    peer = chameleon.ChameleonForConditionalGeneration(config)
    seeded(peer)
    official = peer.state_dict()
    assert LuminaTransformer().recognises(shapes(official))
    prior = Recorded(
        codes=19,
        vocabulary=40,
        dim=32,
        layers=3,
        heads=4,
        key_heads=key_heads,
        hidden=48,
        window=6,
        norm_after=norm_after,
        base=500.0,
        **ids_of(names),
    )
    fill(LuminaTransformer().translate(official), prior=prior)
    prior = cast(Recorded, prepare(prior, NATIVE))

    layout = Layout(1, 3, 5)
    codes = torch.randint(19, (1, 15), generator=torch.Generator().manual_seed(0))
    sequence = prior.sequence(codes, layout)
    is_code = torch.isin(sequence, prior.ids)[0]
    assert torch.equal(sequence[0, is_code], peer.model.vocabulary_mapping.convert_img2bpe(codes)[0, :14].long())

    hidden = peer.model(input_ids=sequence).last_hidden_state
    rotary = rotary_table(sequence.shape[1], prior.model.head_dim // 2, prior.base).float()
    close(prior.model.hidden_states(sequence, rotary), hidden)

    # What stands before the first code, before each other code, and the end of the sequence, before the last one.
    before = [*(is_code.nonzero().flatten() - 1).tolist(), sequence.shape[1] - 1]
    expected = peer.lm_head(hidden)[:, before][..., prior.ids]
    forced = prior.teacher_forced({"tokens": codes}, layout, Condition())
    close(prior.logits_of(forced, codes), expected)
    close(prior.logits_of(prior.blocks(layout, Condition()), codes), expected)
