"""ELIC's prior in the variants that are public."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch

from obverse.channel_groups import ChannelGroup, ChannelGroupPrior
from obverse.errors import ConfigError
from obverse.nn.density import FactorizedDensity
from obverse.nn.hyper_synthesis import hyper_synthesis

Context = Literal["all", "first-and-last"]
Widths = Sequence[int] | Literal["ramp", "thirds"]

GROUPS = (16, 16, 32, 64, 192)


class ElicPrior(ChannelGroupPrior):
    """A `ChannelGroupPrior` of plain values.

    Args:
        hyper_channels: N, channels of z.
        hyper_widths: channels after each layer of the hyper-synthesis; the first two double the grid.
        groups: channels of each group, together M.
        context: which groups before a group's own its channel context looks at: all, or the first and the last of them.
        context_widths: of the two hidden layers of the channel contexts.
        parameter_widths: of the two hidden layers that merge all contexts; `ramp` for widths that fall in a line from
            the input to the output but to no less than what the hyper-synthesis gives (CompressAI), `thirds` for thirds
            of the way, rounded down (JiangWeibeta).
        odd_anchors: anchors are where row + column is odd; otherwise where it is even.
        anchor_networks: anchors have networks of their own; otherwise zeros stand for the context that they lack.
    """

    def __init__(
        self,
        *,
        hyper_channels: int = 192,
        hyper_widths: Sequence[int] = (192, 288, 384),
        groups: Sequence[int] = GROUPS,
        context: Context = "all",
        context_widths: Sequence[int] = (224, 128),
        parameter_widths: Widths = "ramp",
        odd_anchors: bool = False,
        anchor_networks: bool = False,
    ) -> None:
        super().__init__(
            density=FactorizedDensity(hyper_channels),
            hyper_synthesis=hyper_synthesis(hyper_channels, hyper_widths),
            groups=channel_groups(
                hyper_widths[-1], groups, context, context_widths, parameter_widths, anchor_networks=anchor_networks
            ),
            odd_anchors=odd_anchors,
        )


def channel_groups(
    hyper: int,
    sizes: Sequence[int],
    context: Context,
    context_widths: Sequence[int],
    parameter_widths: Widths,
    *,
    anchor_networks: bool = False,
) -> list[ChannelGroup]:
    """The groups' networks; `hyper` is the channels that the hyper-synthesis gives, others are as for `ElicPrior`."""
    if context not in ("all", "first-and-last"):
        raise ConfigError(f"no context {context!r}: it is 'all' or 'first-and-last'")
    made = []
    for index, (size, first) in enumerate(zip(sizes, accumulate(sizes, initial=0), strict=False)):
        earlier: Sequence[int] = range(first)
        if context == "first-and-last" and index:
            earlier = [*range(sizes[0]), *range(max(sizes[0], first - sizes[index - 1]), first)]
        anchors = hyper + (2 * size if index else 0)
        made.append(
            ChannelGroup(
                earlier=earlier,
                first=first,
                channels=size,
                hyper=hyper,
                context_widths=context_widths,
                parameter_widths=_hidden(parameter_widths, anchors + 2 * size, 2 * size, hyper),
                anchor_widths=_hidden(parameter_widths, anchors, 2 * size, hyper) if anchor_networks else None,
            )
        )
    return made


def _hidden(widths: Widths, inputs: int, outputs: int, smallest: int) -> Sequence[int]:
    """Widths of the hidden layers of one network."""
    if widths == "ramp":
        # As CompressAI rounds: a width that is whole may come out one lower, and its checkpoints have it so.
        line = torch.linspace(inputs, outputs, 4, device="cpu").floor().int().tolist()
        return [max(width, smallest) for width in line[1:-1]]
    if widths == "thirds":
        return [2 * inputs // 3 + outputs // 3, inputs // 3 + 2 * outputs // 3]
    if isinstance(widths, str):
        raise ConfigError(f"no parameter_widths {widths!r}: they are 'ramp', 'thirds' or numbers")
    return widths
