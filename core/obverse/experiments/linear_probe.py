"""A linear classifier on frozen features, by the protocol of masked autoencoders (arXiv:2111.06377, appendix A.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.experiments.probe_schedule import Schedule


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum, each matrix at a rate of its own (arXiv:1708.03888).

    The gradient of a tensor of two or more dimensions is scaled to `trust` times the tensor's norm; vectors are updated
    as they are, and do not decay.

    Args:
        parameters: to be updated.
        lr: learning rate.
        momentum: weight of earlier updates.
        weight_decay: share of the weight that is added to its gradient.
        trust: ratio of the norms of an update at rate 1 and of the weight.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = weight.grad
                if weight.ndim > 1:
                    update = update + group["weight_decay"] * weight
                    own, its = weight.norm(), update.norm()
                    update = update * torch.where((own > 0) & (its > 0), group["trust"] * own / its, 1.0)
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(update)
                weight.sub_(velocity, alpha=group["lr"])


class LinearProbe(nn.Sequential):
    """Batch norm without scale and shift, then one linear layer: [B, F] -> [B, classes].

    Args:
        features: F, numbers per picture.
        classes: number of classes.
        seed: of the initial weights.
    """

    def __init__(self, *, features: int, classes: int, seed: int = 0) -> None:
        linear = nn.Linear(features, classes)
        with torch.no_grad():
            nn.init.trunc_normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
            linear.bias.zero_()
        super().__init__(nn.BatchNorm1d(features, affine=False, eps=1e-6), linear)


Examples = tuple[Tensor, Tensor]
"""Features [B, F] float32 and labels [B] int64."""


def fit(
    probe: LinearProbe,
    schedule: Schedule,
    count: int,
    examples: Callable[[Tensor, int], Examples],
    seed: int = 0,
) -> Iterator[float]:
    """Train a probe, epoch by epoch; yields the mean loss of each, in nats.

    Args:
        probe: on the device of the features.
        schedule: of the training. With fewer pictures than its batch, a step sees all of them.
        count: N, pictures of the training set. An incomplete batch at the end of an epoch is left out.
        examples: from rows [B] int64 of the training set and the epoch to features and labels.
        seed: of the order.
    """
    batch = min(schedule.batch, count)
    steps = count // batch
    optimizer = LARS(probe.parameters(), lr=0.0, momentum=schedule.momentum, weight_decay=schedule.weight_decay)
    for epoch in range(schedule.epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        probe.train()
        total = 0.0
        for step in range(steps):
            features, labels = examples(order[step * batch : (step + 1) * batch], epoch)
            optimizer.param_groups[0]["lr"] = schedule.rate(epoch + step / steps, batch)
            loss = F.cross_entropy(probe(features), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        yield total / steps


@torch.inference_mode()
def accuracy(probe: LinearProbe, batches: Iterable[Examples], best: tuple[int, ...] = (1, 5)) -> dict[int, float]:
    """Percentage of pictures whose class is among the most probable ones, by how many of these count.

    With fewer classes than a number in `best`, all of them count.
    """
    probe.eval()
    hits, count = dict.fromkeys(best, 0), 0
    for features, labels in batches:
        logits = probe(features)
        ranked = logits.topk(min(max(best), logits.shape[1])).indices == labels[:, None]
        for number in best:
            hits[number] += int(ranked[:, :number].sum())
        count += len(labels)
    return {number: 100 * found / count for number, found in hits.items()}
