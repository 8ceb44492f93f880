"""LlamaGen against official numbers, and the transformer that VFMTok took over from it."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

import pytest
import torch
from goldens import ROOT, Golden, goldens, official_keys
from torch import Tensor, nn

from obverse.checkpoints import CheckpointFormat
from obverse.config import load_config
from obverse.interfaces import Block, Coded, Condition, Layout, Prior
from obverse.loop import Known, run
from obverse.next_token import LlamaPrior
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build
from obverse.vq import VectorQuantizer, VQAutoencoder
from obverse_llamagen import plugin
from obverse_llamagen.checkpoints import PriorFormat, TokenizerFormat

pytestmark = pytest.mark.parity

TRANSFORMER = "autoregressive.models.gpt.Transformer"
PRIORS = pytest.mark.parametrize("golden", [*goldens("llamagen", TRANSFORMER), *goldens("vfmtok", TRANSFORMER)])
GUIDED = pytest.mark.parametrize("golden", goldens("llamagen", TRANSFORMER))
TOKENIZERS = pytest.mark.parametrize("golden", goldens("llamagen", "tokenizer.tokenizer_image.vq_model.VQModel"))
CODECS = [part.name for part in plugin.obverse_components() if part.kind == "codec"]

TOLERANCE = {"llamagen": 1e-4, "vfmtok": 2e-5}
"""Of floats in native float32, as the READMEs of the fixtures suggest."""

EXACT_TOLERANCE = 0.02
"""Of logits in mode exact, whose weights have 14 bits and activations 16, in standard deviations of the logits."""


def loaded(form: CheckpointFormat, golden: Golden, **modules: nn.Module) -> None:
    """Fill modules, by the prefix of their names, with the official weights, strictly."""
    weights = {name: tensor.float() for name, tensor in golden.weights().items()}
    assert form.recognises({name: tuple(tensor.shape) for name, tensor in weights.items()})
    left = form.translate(weights)
    for prefix, module in modules.items():
        names = [name for name in left if name.startswith(f"{prefix}.")]
        module.load_state_dict({name.removeprefix(f"{prefix}."): left.pop(name) for name in names})
        module.requires_grad_(False).eval()
    assert not left


def system(golden: Golden) -> str:
    return golden.folder.relative_to(ROOT).parts[0]


def sizes(golden: Golden) -> dict[str, Any]:
    """Official arguments of a transformer."""
    return dict(golden.config.get("ModelArgs") or golden.config["kwargs"])


def official(golden: Golden, mode: str = NATIVE) -> Prior:
    args = sizes(golden)
    multiple = args.get("multiple_of", 256)
    prior = LlamaPrior(
        vocabulary=args["vocab_size"],
        dim=args["dim"],
        layers=args["n_layer"],
        heads=args["n_head"],
        hidden=-(-(8 * args["dim"] // 3) // multiple) * multiple,
        classes=args["num_classes"],
        window=isqrt(args["block_size"]),
    )
    loaded(PriorFormat(), golden, prior=prior)
    return prepare(prior, mode)


def whole(golden: Golden) -> Layout:
    """One picture of the native grid."""
    side = isqrt(sizes(golden)["block_size"])
    return Layout(1, side, side)


def cases(golden: Golden) -> Iterator[tuple[Tensor, Condition, Tensor]]:
    """Tokens [1, T] of one picture, its condition, and official logits [T, V]."""
    found, null = golden.tensors(), sizes(golden)["num_classes"]
    for row, (tokens, label) in enumerate(
        zip(found["tokens"], found["class_ids" if "class_ids" in found else "classes"].tolist(), strict=True)
    ):
        given = Condition(label=None if label == null else label)
        conditions = {
            "logits": given,
            "logits_cond": given,
            "logits_cond_kv": given,
            "logits_uncond": Condition(),
            "logits_uncond_kv": Condition(),
            "logits_cfg_kv": Condition(label=label, guidance=golden.config.get("cfg_scale")),
        }
        for name in conditions.keys() & found.keys():
            yield tokens[None], conditions[name], found[name][row]


class Watched:
    """Keeps the logits [B, n, V] that a prior turns into distributions."""

    def __init__(self, prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Tensor] = []
        categorical = prior.categorical

        def watched(logits: Tensor) -> object:
            self.seen.append(logits)
            return categorical(logits)

        monkeypatch.setattr(prior, "categorical", watched)

    def logits(self) -> Tensor:
        """[T, V] of everything since the last call, for a batch of one."""
        seen, self.seen = torch.cat(self.seen, dim=1), []
        return seen[0]


@PRIORS
def test_rotary_table(golden: Golden) -> None:
    found = golden.tensors()
    official_table = found["rope_table" if "rope_table" in found else "rope"]
    prior = official(golden)
    assert isinstance(prior, LlamaPrior)
    torch.testing.assert_close(prior.rotary(whole(golden)), official_table[:-1], atol=1e-5, rtol=0)


@PRIORS
@torch.inference_mode()
def test_logits_in_one_pass(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = official(golden)
    assert isinstance(prior, LlamaPrior)
    watched, layout = Watched(prior, monkeypatch), whole(golden)
    for tokens, condition, expected in cases(golden):
        ours = prior.logits(tokens, layout, condition)[0]
        torch.testing.assert_close(ours, expected, atol=TOLERANCE[system(golden)], rtol=0)
        run(prior.teacher_forced({"tokens": tokens}, layout, condition), Known({"tokens": tokens}))
        torch.testing.assert_close(watched.logits(), expected, atol=TOLERANCE[system(golden)], rtol=0)


@PRIORS
@torch.inference_mode()
def test_logits_step_by_step(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = official(golden)
    watched = Watched(prior, monkeypatch)
    for tokens, condition, expected in cases(golden):
        run(prior.blocks(whole(golden), condition), Known({"tokens": tokens}))
        torch.testing.assert_close(watched.logits(), expected, atol=TOLERANCE[system(golden)], rtol=0)


@PRIORS
@torch.inference_mode()
def test_exact_logits_are_near(golden: Golden) -> None:
    prior = official(golden, EXACT)
    assert isinstance(prior, LlamaPrior)
    for tokens, condition, expected in cases(golden):
        ours = prior.logits(tokens, whole(golden), condition)[0]
        assert (ours - expected).abs().max() < EXACT_TOLERANCE * expected.std()


@GUIDED
@pytest.mark.parametrize("guided", [False, True])
@torch.inference_mode()
def test_greedy_generation(golden: Golden, guided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found, prior = golden.tensors(), official(golden)
    watched = Watched(prior, monkeypatch)

    def most_probable(block: Block) -> Tensor:
        return watched.logits().argmax(-1)[None]

    for row, label in enumerate(found["class_ids"].tolist()):
        condition = Condition(label=label, guidance=golden.config["cfg_scale"] if guided else None)
        coded = run(prior.blocks(whole(golden), condition), most_probable)
        tokens = torch.cat([part.symbols for part in coded], dim=1)[0]
        assert torch.equal(tokens, found["greedy_tokens_cfg" if guided else "greedy_tokens_cfg1"][row])


@TOKENIZERS
@torch.inference_mode()
def test_tokenizer(golden: Golden) -> None:
    args, overrides = golden.config["ModelArgs"], golden.config.get("Encoder_Decoder_overrides", {})
    dim, multipliers = args["codebook_embed_dim"], args["encoder_ch_mult"]
    assert args["decoder_ch_mult"] == multipliers
    encoder = VQAutoencoder(
        embed_dim=dim,
        z_channels=args["z_channels"],
        width=overrides.get("ch", 128),
        multipliers=multipliers,
        blocks=overrides.get("num_res_blocks", 2),
        attention_levels=[len(multipliers) - 1],
    )
    quantizer = VectorQuantizer(size=args["codebook_size"], dim=dim, unit=args["codebook_l2_norm"])
    loaded(TokenizerFormat(), golden, encoder=encoder, quantizer=quantizer)
    found = golden.tensors()
    for end in (name.removeprefix("image") for name in found if name.startswith("image")):
        close = {"atol": TOLERANCE[system(golden)], "rtol": 0}
        image = found[f"image{end}"]
        torch.testing.assert_close(encoder.encoder(image), found[f"encoder_out{end}"], **close)
        latents = encoder.encode((image + 1) / 2, Condition())
        torch.testing.assert_close(latents["tokens"], found[f"prequant{end}"], **close)
        symbols = quantizer.symbols(latents)["tokens"]
        assert torch.equal(symbols.flatten(), found[f"indices{end}"])
        layout = Layout(len(image), *latents["tokens"].shape[2:])
        latents = quantizer.dequantize([Coded("tokens", symbols)], layout)
        torch.testing.assert_close(latents["tokens"], found[f"quant{end}"], **close)
        decoded = encoder.decode(latents, Condition())
        torch.testing.assert_close(decoded * 2 - 1, found[f"recon{end}"], **close)


@pytest.mark.parametrize("codec", CODECS)
def test_every_release_fits_its_configuration(codec: str) -> None:
    """Names and shapes of the official files are those of the parts."""
    architectures = official_keys("llamagen")
    if not architectures:
        pytest.skip(f"no official_keys.json under {ROOT / 'llamagen'}")
    files = official_keys("llamagen", "releases.json")["checkpoints"]
    config = load_config(codec)
    with torch.device("meta"):
        modules = build(config).modules
    expected = {
        f"{prefix}.{key}": value.shape
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    forms: list[CheckpointFormat] = [TokenizerFormat(), PriorFormat()]
    ours: dict[str, Tensor] = {}
    for path in config.weights:
        keys = architectures[files[str(path).rpartition("/")[2]]]
        tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}
        (form,) = (form for form in forms if form.recognises({k: tuple(v.shape) for k, v in tensors.items()}))
        ours |= form.translate(tensors)
    assert {key: value.shape for key, value in ours.items()} == expected
