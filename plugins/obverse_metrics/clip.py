"""CLIP with a residual network (Radford et al. 2021, arXiv:2103.00020): pictures and texts in one space.

Names of tensors are those of the official files. The picture side has no positional embedding, as CLIP-IQA wants it,
and so takes pictures of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Residual block; strides are average pools."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
            if stride > 1 or channels != 4 * width
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 4 * width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(self.pool(y)))
        result: Tensor = (y + self.downsample(self.pool(x))).relu()
        return result


class AttentionPool(nn.Module):
    """The mean cell asks all cells and itself."""

    def __init__(self, dim: int, heads: int, out: int, cells: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(cells + 1, dim))  # of official files, not used
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.c_proj = nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, h, w] to [B, out]."""
        cells = x.flatten(2).mT
        mean = cells.mean(dim=1, keepdim=True)
        cells = torch.cat([mean, cells], dim=1)
        q, k, v = (
            rearrange(layer(source), "b t (h d) -> b h t d", h=self.heads)
            for layer, source in ((self.q_proj, mean), (self.k_proj, cells), (self.v_proj, cells))
        )
        pooled = rearrange(F.scaled_dot_product_attention(q, k, v), "b h 1 d -> b (h d)")
        result: Tensor = self.c_proj(pooled)
        return result


class ResidualNetwork(nn.Module):
    """Pictures to vectors."""

    def __init__(self, *, layers: Sequence[int], width: int, heads: int, out: int, cells: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for index, count in enumerate(layers):
            inner = width * 2**index
            blocks = []
            for block in range(count):
                blocks.append(Bottleneck(channels, inner, 2 if index and not block else 1))
                channels = 4 * inner
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.stages = len(layers)
        self.attnpool = AttentionPool(channels, heads, out, cells)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, out]; sides of at least 32 pixels."""
        for index in (1, 2, 3):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)).relu()
        x = F.avg_pool2d(x, 2)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        result: Tensor = self.attnpool(x)
        return result


class TextBlock(nn.Module):
    """Causal self-attention, then a layer per token, each on normalised input and added to it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(dim, 4 * dim))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        length = x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=later)[0]
        result: Tensor = x + self.mlp(self.ln_2(x))
        return result


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * (1.702 * x).sigmoid()


class TextTransformer(nn.Module):
    """The blocks of the text side."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(TextBlock(dim, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        result: Tensor = self.resblocks(x)
        return result


class CLIP(nn.Module):
    """Both sides. The defaults are those of the official RN50.

    Args:
        layers: residual blocks of each stage.
        width: channels after the stem.
        dim: of the common space.
        text_width, text_layers: of the text side; 64 channels a head.
        context: longest text, in tokens.
        vocabulary: tokens there are.
        cells: of the grid that the picture side was trained on.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        dim: int = 1024,
        text_width: int = 512,
        text_layers: int = 12,
        context: int = 77,
        vocabulary: int = 49408,
        cells: int = 49,
    ) -> None:
        super().__init__()
        self.visual = ResidualNetwork(layers=layers, width=width, heads=width // 2, out=dim, cells=cells)
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, text_width))
        self.transformer = TextTransformer(text_width, text_width // 64, text_layers)
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.zeros(text_width, dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit vectors [B, dim] of texts [B, T] int64 that all end with their last token; T at most `context`."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        last = self.ln_final(self.transformer(x))[:, -1]
        return F.normalize(last @ self.text_projection, dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of normalised pictures [B, 3, H, W]."""
        return F.normalize(self.visual(images), dim=-1)
