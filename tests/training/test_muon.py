"""Muon."""

from __future__ import annotations

import copy

import torch
from torch import nn

from obverse.training.config import DEFAULTS
from obverse.training.muon import SMALLEST, Muon, orthogonal
from obverse.training.optimizers import make_optimizer


def test_orthogonal_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((40, 100), (100, 40)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonal(matrix).float()
        assert found.shape == shape
        # The coefficients of the paper leave them between 0.7 and 1.2.
        assert ((torch.linalg.svdvals(found) - 1).abs() < 0.35).all()
        assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.97


def test_matrices_move_as_far_as_the_learning_rate_says() -> None:
    """0.2 times the learning rate, root mean square, whatever the size of the gradient."""
    torch.manual_seed(0)
    for size in (1e-4, 1e4):
        convolution = nn.Conv2d(SMALLEST, 64, 3, bias=False)
        before = convolution.weight.detach().clone()
        convolution.weight.grad = torch.randn_like(before) * size
        Muon(convolution.parameters(), lr=1e-2).step()
        moved = (convolution.weight.detach() - before).square().mean().sqrt()
        assert abs(moved / 2e-3 - 1) < 0.25


def test_vectors_thin_matrices_and_tables_are_left_to_adamw() -> None:
    torch.manual_seed(0)
    ours = nn.ParameterList(
        [torch.randn(50), torch.randn(SMALLEST - 1, 64), torch.randn(()), torch.randn(64, SMALLEST)]
    )
    theirs = copy.deepcopy(ours)
    ours[3].table = True
    muon = Muon(ours.parameters(), lr=1e-2, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        muon.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_training_goes_on_from_a_saved_state() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, SMALLEST, SMALLEST)
    whole, halves = (nn.Linear(SMALLEST, SMALLEST, bias=False) for _ in range(2))
    halves.load_state_dict(whole.state_dict())
    first = Muon(whole.parameters(), lr=1e-2)
    for gradient in gradients:
        whole.weight.grad = gradient.clone()
        first.step()
    second = Muon(halves.parameters(), lr=1e-2)
    for step, gradient in enumerate(gradients):
        if step == 2:
            state = second.state_dict()
            second = Muon(halves.parameters(), lr=1e-2)
            second.load_state_dict(state)
        halves.weight.grad = gradient.clone()
        second.step()
    assert torch.equal(whole.weight, halves.weight)


def test_configurations_name_it() -> None:
    section = DEFAULTS["optimizer"] | {"name": "muon", "weight_decay": 0.1, "decay_vectors": False}
    optimizer = make_optimizer(section, nn.Linear(3, 3).parameters())
    assert isinstance(optimizer, Muon)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
