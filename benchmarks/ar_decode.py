"""Tokens per second of next-token decoding, beside a plain torch loop over the same transformer.

    python benchmarks/ar_decode.py [--shapes B L] [--tokens 256] [--threads 2] [--device cpu] [--rounds 3]

Shapes of LlamaGen-B and -L with random weights: cached decoding of the first tokens of one 16x16 window, batch 1, from
the class to logits, without drawing or coding. Ours is the prior that codecs run, with distributions, native float32
and exact. The loop is the formulation of the official code: a fused query-key-value product, rotation by pairs in
float32, a static cache of the whole sequence under a mask, `scaled_dot_product_attention`; in float32 and bfloat16.
All take turns; the time is the least of several rounds. Ratios are to the loop in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from obverse.interfaces import Condition, Layout
from obverse.next_token import LlamaPrior
from obverse.numerics import prepare

SIDE = 16
SHAPES = {
    "B": {"dim": 768, "layers": 12, "heads": 12, "hidden": 2048},
    "L": {"dim": 1024, "layers": 24, "heads": 16, "hidden": 2816},
}


def make(shape: str) -> LlamaPrior:
    torch.manual_seed(0)
    return LlamaPrior(vocabulary=16384, **SHAPES[shape], classes=1000, window=SIDE).requires_grad_(False).eval()


class PlainLoop:
    """Decoding as official code does it.

    Args:
        prior: whose weights it takes.
        dtype: of weights, cache and activations.
        device: where it runs.
    """

    def __init__(self, prior: LlamaPrior, dtype: torch.dtype, device: torch.device) -> None:
        length, model = SIDE * SIDE, prior.model
        self.weights = {name: value.to(device, dtype) for name, value in model.state_dict().items()}
        self.layers, self.heads, self.head_dim = len(model.layers), model.heads, model.head_dim
        self.rotary = prior.rotary(Layout(1, SIDE, SIDE)).float().to(device)
        self.cache = torch.zeros(self.layers, 2, 1, self.heads, length, self.head_dim, dtype=dtype, device=device)
        self.mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()

    def norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-5)
        return wide.to(x.dtype) * self.weights[f"{name}.weight"]

    def turned(self, x: Tensor, place: int) -> Tensor:
        pairs = x.float().unflatten(-1, (-1, 2))
        cos, sin = self.rotary[place, :, 0], self.rotary[place, :, 1]
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)

    def step(self, x: Tensor, place: int) -> Tensor:
        """Input [1, 1, D] at a position to logits [1, 1, V] float32."""
        w = self.weights
        for i in range(self.layers):
            here = f"layers.{i}"
            qkv = F.linear(self.norm(x, f"{here}.attention_norm"), w[f"{here}.attention.wqkv.weight"])
            q, k, v = (part.view(1, 1, self.heads, self.head_dim) for part in qkv.chunk(3, -1))
            q, k = self.turned(q, place), self.turned(k, place)
            keys, values = self.cache[i]
            keys[:, :, place], values[:, :, place] = k[:, 0], v[:, 0]
            mask = self.mask[place : place + 1]
            y = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask)
            x = x + F.linear(y.transpose(1, 2).flatten(2), w[f"{here}.attention.wo.weight"])
            h = self.norm(x, f"{here}.ffn_norm")
            gate = F.silu(F.linear(h, w[f"{here}.feed_forward.w1.weight"]))
            h = gate * F.linear(h, w[f"{here}.feed_forward.w3.weight"])
            x = x + F.linear(h, w[f"{here}.feed_forward.w2.weight"])
        return F.linear(self.norm(x, "norm"), w["output.weight"]).float()

    def decode(self, tokens: Tensor) -> Tensor:
        """Logits [1, n, V] of tokens [1, n] without a class."""
        x = self.weights["cls_embedding.weight"][-1:, None]
        found = []
        for place in range(tokens.shape[1]):
            found.append(self.step(x, place))
            x = self.weights["tok_embeddings.weight"][tokens[:, place : place + 1]]
        return torch.cat(found, 1)


def decode(prior: LlamaPrior, tokens: Tensor) -> None:
    """Let the prior yield as many blocks as there are tokens."""
    blocks = prior.blocks(Layout(1, SIDE, SIDE), Condition())
    next(blocks)
    for t in range(tokens.shape[1] - 1):
        blocks.send(tokens[:, t : t + 1])


def least(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of each work, the least of several rounds in which they take turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare(shape: str, count: int, rounds: int, device: torch.device) -> None:
    """Print tokens per second of all four."""
    tokens = torch.randint(0, 16384, (1, count), generator=torch.Generator().manual_seed(0)).to(device)
    native, exact = (prepare(make(shape), mode).to(device) for mode in ("native", "exact"))
    loops = {dtype: PlainLoop(make(shape), dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    rest = torch.zeros(1, SIDE * SIDE - count, dtype=torch.int64, device=device)
    ours = native.logits(torch.cat([tokens, rest], 1), Layout(1, SIDE, SIDE), Condition())[:, :count]
    torch.testing.assert_close(loops[torch.float32].decode(tokens), ours, atol=1e-3, rtol=0)
    works = {
        "plain loop, float32": lambda: loops[torch.float32].decode(tokens),
        "plain loop, bfloat16": lambda: loops[torch.bfloat16].decode(tokens),
        "obverse, native float32": lambda: decode(native, tokens),
        "obverse, exact": lambda: decode(exact, tokens),
    }
    times = least(works, rounds, device)
    print(f"LlamaGen-{shape} shape, {count} of {SIDE * SIDE} tokens, {device}, {torch.get_num_threads()} threads:")
    for name, seconds in times.items():
        ratio = times["plain loop, float32"] / seconds
        print(f"  {name}: {count / seconds:.1f} tokens/s ({ratio:.2f}x)", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", type=int, default=SIDE * SIDE, help="how many to decode, up to 256")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for shape in options.shapes:
        compare(shape, options.tokens, options.rounds, options.device)


if __name__ == "__main__":
    main()
