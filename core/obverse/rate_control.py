"""Rate control without training: tokens that are cheaper to code, where they are nearly as near.

A context-free token quantizer offers the nearest codes of every latent vector. Rate-distortion optimized quantization
takes the one with the least

    bits + rd_lambda * distance

under the prior, `distance` being the squared distance between latent vector and code. So `rd_lambda` counts the bits
that a unit of squared distance is worth: the larger, the nearer the tokens are to those without rate control, and 0
takes the cheapest candidates. The decoder is the same.

A token also changes the probabilities of those that follow, which makes the best choice a search over all. It is
approximated by sweeps: one teacher-forced pass of the prior gives the bits of all candidates under the tokens chosen so
far, every cell takes its best one, and the next pass tells what that really costs. The best tokens seen are kept.

In a residual quantizer a token also changes the vectors that are left for the later stages. There the choice is greedy:
stage by stage, in one run of the prior, each stage takes the best codes of what those before it really left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from obverse.distributions import LOGIT_STEPS, Categorical, Distribution
from obverse.errors import ConfigError, RateError
from obverse.guarded import GuardedCategorical
from obverse.interfaces import Block, Coded, Condition, Latents, Layout, Prior, Quantizer, coded_stages
from obverse.loop import run

CANDIDATES = 32
"""Nearest codes among which a token is chosen."""

SWEEPS = 4
"""Choices of all tokens; each but a settled one takes a pass of the prior more."""

STEPS = 8
"""Values of `rd_lambda` that the search for a size tries between the strongest and none."""

CLOSE = 0.99
"""Part of the allowed size with which the search is content."""

_VALUES = 2**22  # logits normalized at once
_OCTAVES = 16  # range of the search, around the ratio of the bits and the distances at stake

Made = TypeVar("Made")


class RateControl(ABC):
    """The choice of the tokens of one batch of pictures; made by `rate_control`."""

    @abstractmethod
    def scale(self) -> float:
        """An `rd_lambda` at which bits and distances are of one size."""

    @abstractmethod
    def choose(self, rd_lambda: float) -> dict[str, Tensor]:
        """Tokens by array name, [B, N] int64, of about the least cost.

        Args:
            rd_lambda: bits per unit of squared distance, not negative.
        """


def rate_control(
    quantizer: Quantizer, latents: Latents, prior: Prior, layout: Layout, condition: Condition
) -> RateControl:
    """The way to choose tokens that suits a quantizer.

    Args:
        quantizer: context-free, with `candidates`, or with `stages` and `stage_candidates`.
        latents: of the pictures.
        prior: for the whole grid.
        layout: of the grid.
        condition: what the prior is told.

    Raises:
        ConfigError: the quantizer has no candidates.
    """
    return (StageControl if quantizer.stages else GridControl)(quantizer, latents, prior, layout, condition)


class GridControl(RateControl):
    """Tokens that do not change each other's candidates, chosen by sweeps. Arguments as for `rate_control`."""

    def __init__(
        self, quantizer: Quantizer, latents: Latents, prior: Prior, layout: Layout, condition: Condition
    ) -> None:
        offered = quantizer.candidates(latents, CANDIDATES)
        self.prior, self.layout, self.condition = prior, layout, condition
        self.tokens = {name: tokens for name, (tokens, _) in offered.items()}
        self.distances = {name: distances.double() for name, (_, distances) in offered.items()}

    def scale(self) -> float:
        return _scale(list(self.distances.values()))

    @torch.inference_mode()
    def choose(self, rd_lambda: float) -> dict[str, Tensor]:
        """As the base class has it: the least cost that was found for each row of the batch."""
        chosen = {name: torch.zeros_like(tokens[..., 0]) for name, tokens in self.tokens.items()}
        best, least = chosen, torch.full((self.layout.batch,), math.inf, dtype=torch.float64)
        for sweep in range(SWEEPS + 1):
            pricing = _Pricing(self.tokens, self._taken(chosen))
            run(self.prior.teacher_forced(pricing.current, self.layout, self.condition), pricing)
            costs = {name: bits + rd_lambda * self.distances[name] for name, bits in pricing.bits.items()}
            total = sum(_pick(costs[name], chosen[name]).sum(1) for name in costs)
            assert isinstance(total, Tensor)
            better = total.to(least.device) < least
            least = least.where(~better, total.to(least.device))
            best = {name: torch.where(better.to(c.device)[:, None], chosen[name], c) for name, c in best.items()}
            following = {name: cost.argmin(-1) for name, cost in costs.items()}
            if sweep == SWEEPS or all(torch.equal(following[name], chosen[name]) for name in chosen):
                break
            chosen = following
        return self._taken(best)

    def _taken(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _pick(tokens, chosen[name]) for name, tokens in self.tokens.items()}


class StageControl(RateControl):
    """Tokens of a residual quantizer, chosen stage by stage as the prior codes them. Arguments as for `rate_control`.

    Raises:
        ConfigError: the quantizer has no candidates, or a block of the prior is not a stage.
    """

    def __init__(
        self, quantizer: Quantizer, latents: Latents, prior: Prior, layout: Layout, condition: Condition
    ) -> None:
        self.quantizer, self.latents = quantizer, latents
        self.prior, self.layout, self.condition = prior, layout, condition
        quantizer.stage_candidates(latents, [], CANDIDATES)  # refuses before any work

    @torch.inference_mode()
    def scale(self) -> float:
        quantizer, (name,) = self.quantizer, self.quantizer.alphabets
        coded: list[Coded] = []
        distances: list[Tensor] = []
        for _ in coded_stages(quantizer.stages, quantizer.qualities or 1, self.condition.quality):
            tokens, found = quantizer.stage_candidates(self.latents, coded, CANDIDATES)
            coded.append(Coded(name, tokens[..., 0]))
            distances.append(found)
        return _scale(distances)

    @torch.inference_mode()
    def choose(self, rd_lambda: float) -> dict[str, Tensor]:
        source = _Choosing(self.quantizer, self.latents, rd_lambda)
        coded = run(self.prior.blocks(self.layout, self.condition), source)
        return {coded[0].name: torch.cat([part.symbols for part in coded], dim=1)}


class _Choosing:
    """The best tokens of each stage as a source, `rd_lambda` as for `RateControl.choose`."""

    def __init__(self, quantizer: Quantizer, latents: Latents, rd_lambda: float) -> None:
        self.quantizer, self.latents, self.rd_lambda = quantizer, latents, rd_lambda
        self.coded: list[Coded] = []

    def __call__(self, block: Block) -> Tensor:
        tokens, distances = self.quantizer.stage_candidates(self.latents, self.coded, CANDIDATES)
        if tokens.shape[:2] != block.distribution.shape:
            raise ConfigError("rate control of a residual quantizer needs a prior whose blocks are its stages")
        bits = token_bits(block.distribution, tokens).to(distances.device)
        symbols = _pick(tokens, (bits + self.rd_lambda * distances).argmin(-1))
        self.coded.append(Coded(block.name, symbols, block.positions, block.context))
        return symbols


def _scale(distances: list[Tensor]) -> float:
    """Some bits over the mean difference between the farthest candidates and the nearest."""
    spread = sum(float((d[..., -1] - d[..., 0]).mean()) for d in distances) / len(distances)
    return 10 / max(spread, 1e-12)


def largest_within(make: Callable[[float], Made], size: Callable[[Made], int], limit: int, scale: float) -> Made:
    """About the largest of the streams made with an `rd_lambda` that is not above a limit.

    Args:
        make: makes one from an `rd_lambda`.
        size: its size in bytes.
        limit: bytes that are allowed.
        scale: about the middle of the search, as from `RateControl.scale`.

    Raises:
        RateError: all that was tried is larger; the message has the smallest size.
    """
    best = make(0.0)
    smallest = size(best)
    low, high = -_OCTAVES / 2, _OCTAVES / 2
    for _ in range(STEPS):
        if CLOSE * limit <= size(best) <= limit:
            break
        middle = (low + high) / 2
        made = make(scale * 2**middle)
        smallest = min(smallest, size(made))
        if size(made) > limit:
            high = middle
        else:
            low = middle
            if size(best) > limit or size(made) >= size(best):
                best = made
    if size(best) > limit:
        raise RateError(f"the picture does not fit in {limit} bytes: the smallest size reached is {smallest} bytes")
    return best


def check_targets(rd_lambda: float | None, max_bytes: int | None) -> None:
    """Refuse what is no target, and two of them.

    Raises:
        ConfigError: with what is wrong.
    """
    if rd_lambda is not None and max_bytes is not None:
        raise ConfigError("rd_lambda and max_bytes exclude each other")
    if rd_lambda is not None and not 0 <= rd_lambda < math.inf:
        raise ConfigError(f"rd_lambda {rd_lambda} is not a number from 0 upwards")
    if max_bytes is not None and max_bytes < 1:
        raise ConfigError(f"no file has {max_bytes} bytes: max_bytes is at least 1")


class _Pricing:
    """Known tokens as a source, noting on the way what each candidate would cost in their company.

    Args:
        candidates: [B, N, k] by array name.
        current: the tokens, [B, N].

    Attributes:
        bits: of the candidates, [B, N, k] float64.
    """

    def __init__(self, candidates: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
        self.candidates, self.current = candidates, current
        self.bits = {name: torch.zeros(c.shape, dtype=torch.float64, device=c.device) for name, c in candidates.items()}

    def __call__(self, block: Block) -> Tensor:
        current, bits = self.current[block.name], self.bits[block.name]
        places = slice(None) if block.positions is None else block.positions.to(current.device)
        bits[:, places] = token_bits(block.distribution, self.candidates[block.name][:, places]).to(bits.device)
        return current[:, places]


def token_bits(distribution: Distribution, tokens: Tensor) -> Tensor:
    """What tokens would cost, [B, n, k] int64 -> [B, n, k] float64 bits.

    Raises:
        ConfigError: the distribution is not one of tokens.
    """
    if isinstance(distribution, GuardedCategorical):
        logits = distribution.values
    elif isinstance(distribution, Categorical):
        logits = distribution.logits
    else:
        raise ConfigError(f"rate control needs a prior of tokens, this one yields {type(distribution).__name__}")
    steps = LOGIT_STEPS if isinstance(distribution, Categorical) else 1
    rows = logits.reshape(-1, distribution.size)
    wanted = tokens.reshape(len(rows), -1).to(rows.device)
    pieces = max(1, _VALUES // distribution.size)
    bits = [
        -(row.double() / steps).log_softmax(-1).gather(-1, some) / math.log(2)
        for row, some in zip(rows.split(pieces), wanted.split(pieces), strict=True)  # type: ignore[no-untyped-call]
    ]
    return torch.cat(bits).view(tokens.shape)


def _pick(values: Tensor, chosen: Tensor) -> Tensor:
    """[B, N, k] at [B, N] -> [B, N]."""
    return values.gather(-1, chosen[..., None])[..., 0]
