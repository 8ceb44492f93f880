"""Vector quantization with unit-length codes (ViT-VQGAN, arXiv:2110.04627; LlamaGen, arXiv:2406.06525)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn


class UnitCodebook(nn.Module):
    """K codes on the unit sphere of D dimensions; the nearest code is the one with the largest dot product.

    Args:
        size: K, number of codes.
        dim: D, width of a code.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.weight = nn.Parameter(F.normalize(torch.randn(size, dim), dim=1), requires_grad=False)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest code of each vector, [N, D] -> [N] int64, in pieces that bound the memory."""
        codes = F.normalize(self.weight.float(), dim=1).T
        pieces = torch.split(F.normalize(vectors.float(), dim=1), 16384)
        return torch.cat([(piece @ codes).argmax(1) for piece in pieces])

    def candidates(self, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `nearest_codes`, for vectors [N, D] made unit-length."""
        codes = F.normalize(self.weight.float(), dim=1).T
        pieces = torch.split(F.normalize(vectors.float(), dim=1), 16384)
        found = [nearest_codes(2 - 2 * (piece @ codes), count) for piece in pieces]
        return torch.cat([codes for codes, _ in found]), torch.cat([distances for _, distances in found])

    def lookup(self, indices: Tensor) -> Tensor:
        """Unit-length codes, [...] int64 -> [..., D]."""
        return F.normalize(self.weight.float()[indices], dim=-1)


def nearest_codes(distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The codes with the least distances, [N, K] -> indices [N, k] int64 and distances [N, k], ascending from 0 up."""
    least = distances.topk(min(count, distances.shape[1]), largest=False)
    return least.indices, least.values.clamp(min=0)


class CodebookAverage(nn.Module):
    """Moves each code to the running mean of the vectors it was chosen for, and revives unused codes.

    The update of VQ-VAE's appendix A.1 (arXiv:1711.00937), with dead codes restarted at random vectors of the
    current batch (Jukebox, arXiv:2005.00341).

    Args:
        codebook: the codes to train.
        decay: weight of the past, per step.
        threshold: a code whose running count falls below this is restarted.
    """

    count: Tensor
    total: Tensor
    started: Tensor

    def __init__(self, codebook: UnitCodebook, decay: float = 0.99, threshold: float = 0.05) -> None:
        super().__init__()
        self.decay, self.threshold = decay, threshold
        self.register_buffer("count", torch.ones(codebook.size))
        self.register_buffer("total", codebook.weight.detach().clone())
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, codebook: UnitCodebook, vectors: Tensor, indices: Tensor) -> None:
        """One step from unit vectors [N, D] and their indices [N]; processes that train together share it."""
        if not self.started:
            self._restart(torch.ones_like(self.count, dtype=torch.bool), vectors)
            self.started.fill_(True)
        else:
            chosen = torch.bincount(indices, minlength=codebook.size).to(vectors.dtype)
            total = torch.zeros_like(self.total).index_add_(0, indices, vectors)
            if _together():
                distributed.all_reduce(chosen)
                distributed.all_reduce(total)
            self.count.lerp_(chosen, 1 - self.decay)
            self.total.lerp_(total, 1 - self.decay)
            self._restart(self.count < self.threshold, vectors)
        codebook.weight.copy_(F.normalize(self.total, dim=1))

    def _restart(self, dead: Tensor, vectors: Tensor) -> None:
        picks = torch.randint(len(vectors), (int(dead.sum()),), device=vectors.device)
        jitter = torch.randn(len(picks), vectors.shape[1], device=vectors.device) * 0.01
        self.total[dead] = F.normalize(vectors[picks] + jitter, dim=1)
        self.count[dead] = 1.0
        if _together():
            distributed.broadcast(self.total, src=0)


def _together() -> bool:
    """Whether several processes train one model."""
    return distributed.is_available() and distributed.is_initialized()
