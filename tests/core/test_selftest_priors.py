"""Small priors over sequences and hyperlatents: what every prior promises, and that each is what it is called."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from obverse.exact.attention import Attend
from obverse.interfaces import Condition, Layout, Prior
from obverse.loop import Sampling, run
from obverse.numerics import EXACT, NATIVE, prepare
from obverse.selftest.priors import factorized, hyperprior, minimal_gpt, next_token
from obverse.testing import PriorContract, Replay

MODULES = (next_token, minimal_gpt, factorized, hyperprior)
TOYS = {name: toy for module in MODULES for name, toy in module.toys().items()}
SEQUENCES = [name for name, toy in TOYS.items() if "tokens" in toy.alphabets]
LAYOUT = Layout(2, 4, 3)


def make(name: str, mode: str = EXACT) -> Prior:
    prior = prepare(copy.deepcopy(TOYS[name]), mode)
    assert isinstance(prior, nn.Module)
    prior.requires_grad_(False)
    return prior


def sampled(prior: Prior, seed: int = 0) -> list[torch.Tensor]:
    """Symbols of all blocks."""
    source = Sampling(torch.Generator().manual_seed(seed))
    return [part.symbols for part in run(prior.blocks(LAYOUT, Condition()), source)]


def logits(prior: Prior, symbols: list[torch.Tensor]) -> torch.Tensor:
    """Integer logits [B, T, V] in one pass."""
    arrays = {"tokens": torch.cat(symbols, dim=1)}
    blocks = list(prior.teacher_forced(arrays, LAYOUT, Condition()))
    return torch.cat([block.distribution.logits for block in blocks], dim=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("toy", TOYS)
class TestToys(PriorContract):
    @pytest.fixture(autouse=True)
    def _choose(self, toy: str) -> None:
        self.toy = toy

    def make(self) -> Prior:
        return copy.deepcopy(TOYS[self.toy])


@pytest.mark.parametrize("name", TOYS)
def test_exact_numbers_are_near_those_of_the_float_model(name: str) -> None:
    exact, native = make(name), make(name, NATIVE)
    symbols = sampled(exact)
    if name in SEQUENCES:
        ours, theirs = logits(exact, symbols), logits(native, symbols)
        assert ours.float().std() > 4, "the logits say nothing"
        assert (ours - theirs).abs().max() <= 2
        return
    for ours, theirs in zip(
        run(exact.blocks(LAYOUT, Condition()), Replay(symbols)),
        run(native.blocks(LAYOUT, Condition()), Replay(symbols)),
        strict=True,
    ):
        for key, values in ours.context.items():
            torch.testing.assert_close(values, theirs.context[key].double(), rtol=0, atol=2e-2 * float(values.std()))


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_token_matters_to_those_after_it(name: str) -> None:
    prior = make(name)
    symbols = sampled(prior)
    before = logits(prior, symbols)
    symbols[4] = (symbols[4] + 1) % 50
    changed = (logits(prior, symbols) != before).any(-1).all(0)
    assert changed.tolist() == [False] * 5 + [True] * 7


def test_the_class_matters() -> None:
    prior = make("next-token-2d")
    symbols = sampled(prior)
    before = logits(prior, symbols)
    assert isinstance(prior, next_token.NextToken)
    prior.label = 1
    assert bool((logits(prior, symbols) != before).any(-1).all())


def test_grouped_heads_share_keys() -> None:
    prior = make("next-token-grouped")
    shapes = []
    layers = [part for part in prior.modules() if isinstance(part, Attend)]  # type: ignore[attr-defined]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, arguments: shapes.append([tuple(x.shape) for x in arguments]))
    next(prior.blocks(LAYOUT, Condition()))
    assert shapes == [[(2, 4, 1, 8)] * 3] * len(layers)
    assert prior.model.heads == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["hyperprior-leaky", "hyperprior-relu", "hyperprior-gdn"])
def test_means_and_scales_vary(name: str) -> None:
    latents = make(name).blocks(Layout(2, 8, 8), Condition())
    block = latents.send(Sampling(torch.Generator().manual_seed(0))(next(latents)))
    assert len(block.distribution.indices.unique()) > 10  # type: ignore[attr-defined]
    assert block.context["mean"].std() > 0.1
