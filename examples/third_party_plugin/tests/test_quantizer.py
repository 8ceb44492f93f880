"""The contract of every quantizer, and what is special about this one."""

from __future__ import annotations

import pytest
import torch
from obverse_signs.quantizer import SignQuantizer

from obverse.interfaces import Coded, Layout
from obverse.testing import QuantizerContract


class TestSignQuantizer(QuantizerContract):
    def make(self) -> SignQuantizer:
        return SignQuantizer(dim=6)


def test_the_first_channel_is_the_highest_bit() -> None:
    latents = {"tokens": torch.tensor([0.5, -2.0, 3.0]).view(1, 3, 1, 1)}
    assert SignQuantizer(dim=3).symbols(latents)["tokens"].tolist() == [[0b101]]


def test_codes_have_unit_length() -> None:
    tokens = torch.arange(16).view(1, 16)
    codes = SignQuantizer(dim=4).dequantize([Coded("tokens", tokens)], Layout(1, 4, 4))["tokens"]
    assert torch.allclose(codes.square().sum(1), torch.ones(1, 4, 4))


@pytest.mark.parametrize("dim", [0, 17])
def test_widths_out_of_range_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim is {dim}, expected 1 to 16"):
        SignQuantizer(dim=dim)
