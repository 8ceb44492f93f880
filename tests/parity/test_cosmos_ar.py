"""Cosmos autoregressive world models against official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import ROOT, Golden, goldens
from torch import Tensor

from obverse.checkpoints import recognised
from obverse.config import load_config
from obverse.interfaces import Condition, Layout
from obverse.loop import Known, run
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.pipeline import build
from obverse_cosmos.checkpoints import WorldModelFormat, text_weights
from obverse_cosmos.prior import CosmosPrior

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5  # of the fixtures' README: float32 sums in another order
NEAR = 0.01  # nats between exact logits and official ones: weights in 14 bits, activations in 16

MODELS = goldens("cosmos_ar", "autoregressive.networks.transformer.Transformer")

CODECS = {
    "Cosmos-Predict1-4B": "cosmos-predict1-4b",
    "Cosmos-Predict1-12B": "cosmos-predict1-12b",
    "Cosmos-Predict1-5B-Video2World": "cosmos-predict1-5b",
    "Cosmos-Predict1-13B-Video2World": "cosmos-predict1-13b",
}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def loaded(golden: Golden, mode: str = NATIVE, text: Tensor | None = None) -> CosmosPrior:
    """The model of a fixture with official weights, strictly; with the embedding of a text, [N, E], or without."""
    params, weights = golden.config["params"], golden.weights()
    stretch = {
        "grid": params["original_latent_shape"],
        "scale": params["yarn_scale"],
        "fast": params["yarn_beta_fast"],
        "slow": params["yarn_beta_slow"],
    }
    prior = CosmosPrior(
        vocabulary=params["vocab_size"],
        dim=params["dim"],
        layers=params["n_layers"],
        hidden=params["ffn_hidden_size"],
        heads=params["n_heads"],
        key_heads=params["n_kv_heads"],
        head_dim=params["head_dim"] or params["dim"] // params["n_heads"],
        base=params["rope_theta"],
        stretch=stretch if params["apply_yarn"] else None,
        begins=params["apply_abs_pos_emb"],
        window=max(params["video_latent_shape"]),
        text_tokens=0 if text is None else len(text),
        text_dim=params.get("context_dim") or 1,
    )
    official = WorldModelFormat()
    assert official.recognises({key: tuple(value.shape) for key, value in weights.items()})
    translated = official.translate(weights)
    if text is not None:
        translated |= text_weights(weights, text)
    prior.load_state_dict({key.removeprefix("prior."): value.float() for key, value in translated.items()})
    prepared = prepare(prior.requires_grad_(False).eval(), mode)
    assert isinstance(prepared, CosmosPrior)
    return prepared


def expected(io: dict[str, Tensor]) -> Tensor:
    return io.get("logits_zero_context", io["logits"])


def inputs(golden: Golden, prior: CosmosPrior) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens of a whole clip with their positions."""
    tokens = golden.tensors()["tokens"]
    rotary, added = prior.positions(*golden.config["params"]["video_latent_shape"])
    length = tokens.shape[1]
    return tokens, rotary[:length], None if added is None else added[:length]


@pytest.mark.parametrize("golden", MODELS)
def test_positions(golden: Golden) -> None:
    io, prior = golden.tensors(), loaded(golden)
    rotary, added = prior.positions(*golden.config["params"]["video_latent_shape"])
    for ours, theirs in zip(rotary.unbind(-1), (io["rope_cos"], io["rope_sin"]), strict=True):
        assert len(ours) <= len(theirs)
        close(ours.repeat(1, 2), theirs[: len(ours)])
    assert (added is None) == ("abs_pos_emb" not in io)
    if added is not None:
        assert torch.equal(added, io["abs_pos_emb"][: len(added)])


@pytest.mark.parametrize("golden", MODELS)
def test_logits_of_a_clip_in_one_pass(golden: Golden) -> None:
    prior = loaded(golden)
    close(prior.output(prior.hidden_states(*inputs(golden, prior))), expected(golden.tensors()))


@pytest.mark.parametrize("golden", MODELS)
def test_logits_of_a_clip_step_by_step(golden: Golden) -> None:
    prior = loaded(golden)
    tokens, rotary, added = inputs(golden, prior)
    caches = prior.caches(*tokens.shape)
    found = []
    for t in range(tokens.shape[1]):
        here = slice(t, t + 1)
        hidden = prior.hidden_states(tokens[:, here], rotary[here], None if added is None else added[here], caches)
        found.append(prior.output(hidden))
    close(torch.cat(found, dim=1), expected(golden.tensors()))


def frame(golden: Golden) -> tuple[Tensor, Layout, Tensor]:
    """Tokens of the first frame, their layout, and official logits of those that have any."""
    config, io = golden.config, golden.tensors()
    _, height, width = config["params"]["video_latent_shape"]
    begins = config["bov_token"] is not None
    start, length = int(begins), height * width
    tokens = io["tokens"][:, start : start + length]
    return tokens, Layout(len(tokens), height, width), expected(io)[:, : length - 1 + start]


def logits(monkeypatch: pytest.MonkeyPatch, prior: CosmosPrior, blocks: Any, tokens: Tensor) -> Tensor:
    """What the prior makes distributions of, [B, T, V], in the order of the blocks."""
    seen: list[Tensor] = []
    make = type(prior).categorical

    def watch(self: CosmosPrior, values: Tensor) -> Any:
        seen.append(values)
        return make(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(type(prior), "categorical", watch)
        run(blocks, Known({"tokens": tokens}))
    return torch.cat(seen, dim=1)


@pytest.mark.parametrize("mode", [NATIVE, EXACT])
@pytest.mark.parametrize("golden", MODELS)
def test_probabilities_of_a_frame(golden: Golden, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = loaded(golden, mode)
    tokens, layout, official = frame(golden)
    stepwise = logits(monkeypatch, prior, prior.blocks(layout, Condition()), tokens)
    forced = logits(monkeypatch, prior, prior.teacher_forced({"tokens": tokens}, layout, Condition()), tokens)
    assert forced.shape[:2] == tokens.shape
    if not prior.begins:
        assert not forced[:, 0].any()
        assert not stepwise[:, 0].any()
    for ours in (found[:, -official.shape[1] :] for found in (stepwise, forced)):
        if mode == NATIVE:
            close(ours, official)
        else:
            assert (ours - official).abs().max() < NEAR
    if mode == EXACT:
        assert torch.equal(stepwise, forced)


@pytest.mark.parametrize("mode", [NATIVE, EXACT])
@pytest.mark.parametrize("golden", MODELS)
@torch.inference_mode()
def test_probabilities_behind_a_text(golden: Golden, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first frame, and of a clip in one pass; an embedding of zeros is no text."""
    io = golden.tensors()
    if "context" not in io:
        pytest.skip("a model without attention to text")
    tokens, layout, without = frame(golden)
    for row, context in enumerate(io["context"]):
        known, one = tokens[row : row + 1], Layout(1, layout.height, layout.width)
        for text, official in ((context, io["logits"]), (torch.zeros_like(context), io["logits_zero_context"])):
            prior, official = loaded(golden, mode, text), official[row : row + 1]
            stepwise = logits(monkeypatch, prior, prior.blocks(one, Condition()), known)
            forced = logits(monkeypatch, prior, prior.teacher_forced({"tokens": known}, one, Condition()), known)
            if mode == EXACT:
                assert torch.equal(stepwise, forced)
            found = {"stepwise": stepwise, "forced": forced}
            if mode == NATIVE:
                clip, rotary, added = inputs(golden, prior)
                hidden = prior.hidden_states(clip[row : row + 1], rotary, added, text=prior.text_keys_values())
                found["clip"] = prior.output(hidden)
            for ours in found.values():
                theirs = official[:, : ours.shape[1]]
                if mode == NATIVE:
                    close(ours, theirs)
                else:
                    assert (ours - theirs).abs().max() < NEAR
        assert (io["logits"][row, : without.shape[1]] - without[row]).abs().max() > 10 * NEAR


KEYS = ROOT / "cosmos_ar" / "official_keys"


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"no key lists under {KEYS} (set OBVERSE_GOLDENS)")
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("release", CODECS)
def test_official_keys(release: str, prefix: str) -> None:
    keys = json.loads((KEYS / f"{release}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        expected = build(load_config(CODECS[release])).modules["prior"].state_dict()
        given = {prefix + key: torch.empty(shape) for key, (shape, _) in keys.items()}
    official = WorldModelFormat()
    component = recognised(Path(release), {key: tuple(value.shape) for key, value in given.items()})
    assert component is not None
    assert component.name == "cosmos-ar"
    ours = {key: value.shape for key, value in official.translate(given).items()}
    assert ours == {f"prior.{key}": value.shape for key, value in expected.items()}
