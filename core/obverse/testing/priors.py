"""What every prior promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from obverse.coders.range import RangeCoder
from obverse.distributions import Categorical
from obverse.exact import BACKENDS, audit, use_backend
from obverse.guarded import GuardedCategorical
from obverse.interfaces import Block, Blocks, Coded, Condition, Layout, Prior
from obverse.loop import Decoding, Encoding, Sampling, Source, run
from obverse.numerics import EXACT, GUARDED64, prepare
from obverse.testing.recording import Replay, recorded
from obverse.threads import threads
from obverse.windows import Windowed


@dataclass
class Run:
    """One pass of the loop: its blocks, and what became of them."""

    blocks: list[Block]
    coded: list[Coded]

    @property
    def symbols(self) -> list[Tensor]:
        return [part.symbols for part in self.coded]

    def arrays(self) -> dict[str, Tensor]:
        """Symbols by array name, [B, N]."""
        found: dict[str, Tensor] = {}
        for name in {part.name for part in self.coded}:
            parts = [part for part in self.coded if part.name == name]
            places = [p.positions for p in parts if p.positions is not None]
            flat = torch.cat([p.symbols.flatten(1) for p in parts], dim=1)
            found[name] = flat[:, torch.cat(places).argsort()] if places else flat
        return found

    def row(self, index: int) -> list[object]:
        """Everything that a coder sees of one item of the batch."""
        return [
            recorded(block.distribution.rows(index, index + 1), part.symbols[index : index + 1])
            for block, part in zip(self.blocks, self.coded, strict=True)
        ]

    def order(self) -> list[tuple[str, list[int] | None]]:
        return [(b.name, None if b.positions is None else b.positions.tolist()) for b in self.blocks]


class PriorContract:
    """Subclass as `TestMyPrior` and define `make`."""

    def make(self) -> Prior:
        """The prior, with the same weights every time."""
        raise NotImplementedError

    def layouts(self) -> list[Layout]:
        """Sizes to try, each within the prior's window."""
        return [Layout(1, 1, 1), Layout(1, 4, 4), Layout(3, 2, 3)]

    def conditions(self) -> list[Condition]:
        return [Condition(q) for q in range(self.make().qualities or 1)]

    def priors(self) -> Iterator[Prior]:
        """The prior as a codec runs it, in every numerics mode that promises the same symbols everywhere."""
        for mode in (EXACT, GUARDED64) if self.make().exact else (GUARDED64,):
            prior = prepare(self.make(), mode)
            if isinstance(prior, nn.Module):
                prior.requires_grad_(False).eval()
            yield prior

    def trial(self, blocks: Blocks, source: Source | None = None, seed: int = 0) -> Run:
        """Run the loop, with sampled symbols unless a source is given."""
        seen: list[Block] = []
        source = source or Sampling(torch.Generator().manual_seed(seed))

        def watched(block: Block) -> Tensor:
            seen.append(block)
            return source(block)

        return Run(seen, run(blocks, watched))

    def cases(self) -> Iterator[tuple[Prior, Layout, Condition]]:
        for prior in self.priors():
            for layout in self.layouts():
                for condition in self.conditions():
                    yield prior, layout, condition

    def test_declarations(self) -> None:
        prior = self.make()
        assert isinstance(prior, Prior)
        assert all(size is None or size >= 2 for size in prior.alphabets.values())
        assert prior.window is None or prior.window >= 1

    def test_blocks_cover_every_symbol_exactly_once(self) -> None:
        for prior, layout, condition in self.cases():
            blocks = self.trial(prior.blocks(layout, condition)).blocks
            for name in {block.name for block in blocks}:
                parts = [block for block in blocks if block.name == name]
                if any(block.positions is None for block in parts):
                    assert len(parts) == 1, f"{name!r}: a block without positions is the whole array"
                else:
                    places = torch.cat([b.positions for b in parts if b.positions is not None])
                    assert places.sort().values.tolist() == list(range(len(places))), f"{name!r} at {layout}"

    def test_shapes_fit_the_layout(self) -> None:
        for prior, layout, condition in self.cases():
            for block in self.trial(prior.blocks(layout, condition)).blocks:
                shape = block.distribution.shape
                assert shape[0] == layout.batch
                assert shape.numel() > 0, "an empty block"
                if block.positions is not None:
                    assert block.positions.dtype == torch.int64
                    assert shape == (layout.batch, len(block.positions))

    def test_alphabets_are_true(self) -> None:
        for prior, layout, condition in self.cases():
            trial = self.trial(prior.blocks(layout, condition))
            names = {block.name for block in trial.blocks}
            assert names == set(prior.alphabets) or not prior.alphabets
            for block, part in zip(trial.blocks, trial.coded, strict=True):
                size = prior.alphabets.get(block.name)
                assert part.symbols.dtype == torch.int64
                assert part.symbols.shape == block.distribution.shape
                if size is not None:
                    assert 0 <= int(part.symbols.min()) <= int(part.symbols.max()) < size
                    tokens = block.distribution
                    assert not isinstance(tokens, Categorical | GuardedCategorical) or tokens.size == size

    def test_frequencies_are_valid_integers(self) -> None:
        for prior, layout, condition in self.cases():
            trial = self.trial(prior.blocks(layout, condition))
            assert all(calls for calls in trial.row(layout.batch - 1)), "a block that writes nothing"

    def test_repeats_itself(self) -> None:
        for prior, layout, condition in self.cases():
            first = self.trial(prior.blocks(layout, condition))
            again = self.trial(prior.blocks(layout, condition), Replay(first.symbols))
            assert first.order() == again.order()
            assert first.row(0) == again.row(0)

    def test_number_of_threads_does_not_matter(self) -> None:
        for prior, layout, condition in self.cases():
            with threads(1):
                first = self.trial(prior.blocks(layout, condition))
            with threads(2):
                again = self.trial(prior.blocks(layout, condition), Replay(first.symbols))
            assert first.row(0) == again.row(0)

    def test_teacher_forced_equals_step_by_step(self) -> None:
        for prior, layout, condition in self.cases():
            stepwise = self.trial(prior.blocks(layout, condition))
            forced = self.trial(prior.teacher_forced(stepwise.arrays(), layout, condition), Replay(stepwise.symbols))
            assert stepwise.order() == forced.order()
            for index in range(layout.batch):
                assert stepwise.row(index) == forced.row(index)

    def test_batch_equals_single_items(self) -> None:
        for prior, layout, condition in self.cases():
            together = self.trial(prior.blocks(layout, condition))
            for index in range(layout.batch if layout.batch > 1 else 0):
                alone = self.trial(
                    prior.blocks(Layout(1, layout.height, layout.width), condition),
                    Replay([symbols[index : index + 1] for symbols in together.symbols]),
                )
                assert alone.order() == together.order()
                assert alone.row(0) == together.row(index)

    def test_survives_the_entropy_coder(self) -> None:
        for prior, layout, condition in self.cases():
            sampled = self.trial(prior.blocks(layout, condition), seed=1)
            encoder = RangeCoder().encoder()
            self.trial(prior.blocks(layout, condition), Encoding(Replay(sampled.symbols), [encoder]))
            decoder = RangeCoder().decoder(encoder.finish())
            decoded = self.trial(prior.blocks(layout, condition), Decoding([decoder]))
            for ours, theirs in zip(sampled.symbols, decoded.symbols, strict=True):
                assert torch.equal(ours, theirs)

    def exact_prior(self) -> Prior:
        """The prior in numerics mode exact; skips where it has none."""
        if not self.make().exact:
            pytest.skip("the prior has no exact form")
        return next(iter(self.priors()))

    @torch.inference_mode()
    def test_exact_form_uses_exact_operations_alone(self) -> None:
        prior = self.exact_prior()
        for layout in self.layouts():
            for condition in self.conditions():
                trial = self.trial(prior.blocks(layout, condition))
                with audit():
                    self.trial(prior.blocks(layout, condition), Replay(trial.symbols))
                    self.trial(prior.teacher_forced(trial.arrays(), layout, condition), Replay(trial.symbols))

    @torch.inference_mode()
    def test_exact_form_is_the_same_with_every_backend(self) -> None:
        prior = self.exact_prior()
        for layout in self.layouts():
            for condition in self.conditions():
                trial = self.trial(prior.blocks(layout, condition))
                for backend in BACKENDS:
                    with use_backend(backend):
                        again = self.trial(prior.blocks(layout, condition), Replay(trial.symbols))
                    assert all(trial.row(index) == again.row(index) for index in range(layout.batch))

    def test_windows_cover_larger_grids(self) -> None:
        for prior in self.priors():
            if prior.window is None:
                pytest.skip("the prior takes grids of any size")
            layout, condition = Layout(2, prior.window + 1, prior.window * 2 + 1), self.conditions()[0]
            cover = Windowed(prior)
            stepwise = self.trial(cover.blocks(layout, condition))
            arrays = stepwise.arrays()
            assert all(array.shape == (2, layout.height * layout.width) for array in arrays.values())
            forced = self.trial(cover.teacher_forced(arrays, layout, condition), Replay(stepwise.symbols))
            assert stepwise.order() == forced.order()
            assert all(stepwise.row(index) == forced.row(index) for index in range(2))
