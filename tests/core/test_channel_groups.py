"""Channel groups: which cells and channels know which others, and the parallel pass of training.

The contract of priors is tested with the small priors of `obverse.selftest` and with the plugin's.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from obverse.channel_groups import ChannelGroup, ChannelGroupPrior, checkerboard
from obverse.interfaces import Condition, Layout
from obverse.loop import Sampling, run
from obverse.nn.density import FactorizedDensity
from obverse.nn.masked import MaskedConv2d, causal_taps, checkerboard_taps
from obverse.numerics import NATIVE, prepare
from obverse.selftest.seeded import fill

SIZES = (2, 3, 4)
HEIGHT, WIDTH = 4, 8


def group(number: int, **others: object) -> ChannelGroup:
    first = sum(SIZES[:number])
    arguments = {"earlier": range(first), "context_widths": (5, 4), "parameter_widths": (6, 5)} | others
    return ChannelGroup(first=first, channels=SIZES[number], hyper=8, **arguments)


def make(*, odd_anchors: bool = False, **others: object) -> ChannelGroupPrior:
    """Groups of 2, 3 and 4 channels; scales of about one."""
    prior = ChannelGroupPrior(
        density=FactorizedDensity(3, initial_scale=3),
        hyper_synthesis=nn.Sequential(nn.Conv2d(3, 8 * 16, 1), nn.PixelShuffle(4)),
        groups=[group(number, **others) for number in range(len(SIZES))],
        odd_anchors=odd_anchors,
    )
    density = prior.density.state_dict()
    fill(prior, "groups")
    prior.density.load_state_dict(density)
    with torch.no_grad():
        for part in prior.groups:
            for network in (part.entropy_parameters, part.anchor_parameters):
                if network is not None:
                    network[-1].bias[: part.channels] += 2
    return prior.requires_grad_(False)


def test_checkerboard() -> None:
    anchors, others = checkerboard(2, 3)
    assert anchors.tolist() == [0, 2, 4]
    assert others.tolist() == [1, 3, 5]
    assert checkerboard(1, 1)[1].tolist() == []


def test_taps() -> None:
    assert checkerboard_taps(3).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert causal_taps(3).int().tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("taps", [causal_taps, checkerboard_taps])
def test_hidden_taps_do_not_count(taps: object) -> None:
    layer = fill(MaskedConv2d(2, 3, taps(5)), "masked")
    x = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    with torch.no_grad():
        layer.weight += 9 * ~taps(5)
    assert torch.equal(layer(x), before)
    patch = x[:, :, :5, :5]
    torch.testing.assert_close(layer(patch, padded=False), layer(patch)[:, :, 2:3, 2:3])


@pytest.mark.parametrize("odd", [False, True])
def test_order_of_the_blocks(odd: bool) -> None:
    prior = prepare(make(odd_anchors=odd), NATIVE)
    coded = run(prior.blocks(Layout(1, HEIGHT, WIDTH), Condition()), Sampling(torch.Generator().manual_seed(0)))
    assert [part.name for part in coded] == ["z"] + ["y"] * 6
    colours = checkerboard(HEIGHT, WIDTH)
    for number, part in enumerate(coded[1:]):
        index, second = divmod(number, 2)
        channels = torch.arange(sum(SIZES[:index]), sum(SIZES[: index + 1]))
        cells = colours[second != odd]
        assert part.positions.tolist() == [int(c) * HEIGHT * WIDTH + int(i) for c in channels for i in cells]


class TestKnowledge:
    """What the scales and means of y depend on, by the parallel pass: changes of y_hat and where they are seen."""

    def change(self, prior: ChannelGroupPrior, channel: int, row: int, column: int) -> Tensor:
        """[M, h, w] bool, where a change of one value of y_hat is seen."""
        generator = torch.Generator().manual_seed(0)
        y_hat = torch.randn(1, sum(SIZES), HEIGHT, WIDTH, generator=generator)
        z = torch.randn(1, 3, HEIGHT // 4, WIDTH // 4, generator=generator)
        changed = y_hat.clone()
        changed[:, channel, row, column] += 50
        pairs = zip(prior.known(y_hat, z), prior.known(changed, z), strict=True)
        seen = [(before != after)[0] for before, after in pairs]
        return seen[0] | seen[1]

    def test_an_anchor_is_seen_beside_it_and_by_later_groups(self) -> None:
        seen = self.change(make(), 2, 1, 3)  # second group
        assert not seen[:2].any()
        odd = (torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)) % 2 == 1
        assert not seen[2:5][:, ~odd].any(), "anchors do not know each other"
        assert seen[2:5, 1, 2].any()
        assert seen[2:5, 1, 4].any()
        assert not seen[2:5, :, 6:].any(), "two cells is as far as the context sees"
        assert seen[5:, 1, 3].any()

    def test_other_cells_are_seen_by_later_groups_alone(self) -> None:
        seen = self.change(make(), 2, 1, 2)
        assert not seen[:5].any()
        assert seen[5:, 1, 2].any()

    def test_colours_exchanged(self) -> None:
        seen = self.change(make(odd_anchors=True), 2, 1, 2)
        assert seen[2:5, 1, 3].any()
        assert not seen[2:5, 1, 2].any()

    def test_groups_may_skip_others(self) -> None:
        prior = make()
        prior.groups[2] = fill(group(2, earlier=[0, 1]), "skipping")
        assert not self.change(prior, 2, 1, 3)[5:].any()
        assert self.change(prior, 0, 1, 3)[5:].any()


@pytest.mark.parametrize("others", [{}, {"odd_anchors": True, "anchor_widths": (7,)}])
def test_the_parallel_pass_gives_what_the_blocks_have(others: dict[str, object]) -> None:
    prior = prepare(make(**others), NATIVE)
    layout = Layout(2, HEIGHT, WIDTH)
    coded = run(prior.blocks(layout, Condition()), Sampling(torch.Generator().manual_seed(0)))
    parts = coded[1:]
    order = torch.cat([part.positions for part in parts]).argsort()
    shape = (2, sum(SIZES), HEIGHT, WIDTH)
    scale, mean = (torch.cat([p.context[key] for p in parts], 1)[:, order].view(shape) for key in ("scale", "mean"))
    y_hat = torch.cat([part.symbols for part in parts], 1)[:, order].view(shape) + mean
    z = coded[0].symbols + coded[0].context["mean"]
    found = prior.known(y_hat, z.float())
    torch.testing.assert_close(found[0].clamp(min=0.11), scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], mean, atol=1e-4, rtol=1e-4)


def test_the_parallel_pass_has_gradients() -> None:
    prior = make(odd_anchors=True, anchor_widths=(7,)).requires_grad_(True)
    y_hat = torch.randn(1, sum(SIZES), HEIGHT, WIDTH, requires_grad=True)
    sum(part.square().sum() for part in prior.known(y_hat, torch.randn(1, 3, 1, 2))).backward()
    weights = {name: value.grad for name, value in prior.named_parameters() if not name.startswith("density")}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in (*weights.values(), y_hat.grad))
