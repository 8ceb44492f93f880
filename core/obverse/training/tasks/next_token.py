"""Training of priors that predict the next token in raster order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Condition, Layout
from obverse.nn.llama import INITIAL_STD, Llama
from obverse.training.task import Batch
from obverse.training.tasks.token_prior import TokenPriorTask


@runtime_checkable
class NextTokenPrior(Protocol):
    """What training needs of a prior, as `obverse.next_token.LlamaPrior` has it."""

    window: int | None

    def logits(self, tokens: Tensor, layout: Layout, condition: Condition, labels: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of tokens [B, T], each from those before it, and from the class of each row [B]."""


class NextTokenTask(TokenPriorTask):
    """Cross-entropy of every token, from those before it in raster order (LlamaGen, arXiv:2406.06525).

    Of a grid that is larger than the prior's window, each step sees a random window of each picture.

    Args:
        prior, tokenizer, data, class_dropout, start: as for `TokenPriorTask`.
        token_dropout: probability of dropping a value of the embeddings; for priors made of `obverse.nn.llama.Llama`.
        dropout: of dropping a value of what attention and feed-forward add; for the same.
        codes: let embeddings and output begin as random projections of the tokenizer's codes, so that like tokens are
            treated alike from the first step; for the same, with a tokenizer, and without `start`.
    """

    def __init__(
        self,
        *,
        prior: Mapping[str, Any],
        tokenizer: Mapping[str, Any] | None = None,
        data: str | None = None,
        class_dropout: float = 0.1,
        token_dropout: float = 0.0,
        dropout: float = 0.0,
        codes: bool = False,
        start: str | None = None,
    ) -> None:
        super().__init__(prior=prior, tokenizer=tokenizer, data=data, class_dropout=class_dropout, start=start)
        if not isinstance(self.prior, NextTokenPrior):
            raise ConfigError(f"prior {prior['name']!r} cannot be trained by next-token: it has no logits of one pass")
        model = getattr(self.prior, "model", None)
        if isinstance(model, Llama):
            model.drop(token_dropout, dropout)
            if codes:
                self._begin_with_codes(model, start)
            elif start is None:
                nn.init.zeros_(model.output.weight)  # as the official code: all tokens are equally probable
        elif token_dropout or dropout or codes:
            raise ConfigError(f"prior {prior['name']!r} is no Llama; leave token_dropout, dropout and codes out")
        self._grid: tuple[int, int] | None = None

    def forward(self, batch: Batch, turn: str = "main") -> tuple[Tensor, dict[str, Tensor]]:
        tokens, grid = self.tokens(batch)
        height, width = grid or self._grid or _square(tokens.shape[1])
        tokens, layout = self._window(tokens, height, width)
        labels = self.labels(batch, tokens.device)
        logits = self.prior.logits(tokens, layout, Condition(), labels).float()
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        return loss, {"bits_per_token": loss.detach() / math.log(2)}

    @torch.no_grad()
    def _begin_with_codes(self, model: Llama, start: str | None) -> None:
        if start is not None or not self._tokenizer:
            raise ConfigError(
                "task.codes is for a prior that begins anew, with a tokenizer: no task.start, a task.tokenizer"
            )
        codes = self._tokenizer[0].codes()
        codes = codes / codes.square().sum(dim=1).mean().sqrt()
        for table in (model.tok_embeddings.weight, model.output.weight):
            table.copy_(codes @ torch.randn(codes.shape[1], table.shape[1]) * INITIAL_STD)

    def _window(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, Layout]:
        """A window of each row's grid, at random while training, else the first; all of it where it fits."""
        rows, columns = (min(self.prior.window or side, side) for side in (height, width))
        layout = Layout(len(tokens), rows, columns)
        if (rows, columns) == (height, width):
            return tokens, layout
        places = torch.zeros(len(tokens), 2, dtype=torch.int64, device=tokens.device)
        if self.training:
            room = torch.tensor([height - rows + 1, width - columns + 1], device=tokens.device)
            places = (self.noise.uniform((len(tokens), 2), tokens.device) * room).long()
        inside = torch.arange(rows, device=tokens.device)[:, None] * width + torch.arange(columns, device=tokens.device)
        first = places[:, 0] * width + places[:, 1]
        return tokens.gather(1, first[:, None] + inside.flatten()), layout

    def _check_grid(self, count: int, grid: tuple[int, int], where: str) -> None:
        if count != grid[0] * grid[1]:
            raise ConfigError(
                f"prior {self._section['name']!r} models one token per cell, {where} are {count} of a grid of "
                f"{grid[0]}x{grid[1]}"
            )
        self._grid = grid


def _square(count: int) -> tuple[int, int]:
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(f"{count} tokens are no square grid")
    return side, side
