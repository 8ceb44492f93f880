"""Decoding by autoregressive priors, beside plain torch loops in the formulation of the official code.

    python benchmarks/ar_decode.py [--shapes B L d16] [--tokens 256] [--threads 2] [--device cpu] [--rounds 3]
        [--guided] [--images 3B d30]

Random weights in the shapes of LlamaGen (B, L) and VAR (d16), from the class to logits, without drawing or coding. Ours
is the prior that codecs run, with distributions, native float32 and exact. The plain loop for LlamaGen is a fused
query-key-value product, rotation by pairs in float32, a static cache of the whole sequence under a mask; for VAR, a
cache that grows by concatenation, and the reconstruction so far resized for every scale; both with
`scaled_dot_product_attention`, in float32 and bfloat16. LlamaGen decodes the first tokens of one 16x16 window, VAR
always all scales of one tile. With --guided the batch is doubled, as generation with guidance needs it, and coding does
not. All take turns; the time is the least of several rounds. Ratios are to the loop in float32, in the same run.

With CUDA, --images adds what decoding a picture of 512x512 pixels costs under LlamaGen-3B and VAR-d30: all windows or
tiles of the picture, in native and exact; without CUDA it says so and skips them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from obverse.config import load_config
from obverse.interfaces import Condition, Layout, Prior
from obverse.loop import Known, run
from obverse.next_scale import NextScalePrior, scale_spans
from obverse.next_token import LlamaPrior
from obverse.numerics import prepare
from obverse.windows import Windowed

SIDE = 16
LLAMAS = {"B": "llamagen-b-256", "L": "llamagen-l-256", "3B": "llamagen-3b-384"}
VARS = {"d16": "var-d16", "d30": "var-d30"}
NAMES = LLAMAS | VARS


def make(shape: str, device: torch.device) -> Any:
    """The prior of a shape with random weights, made where it runs."""
    section = {key: value for key, value in load_config(NAMES[shape]).parts["prior"].items() if key != "name"}
    torch.manual_seed(0)
    with device:
        prior = LlamaPrior(**section) if shape in LLAMAS else NextScalePrior(**section)
    return prior.requires_grad_(False).eval()


def weights(prior: LlamaPrior | NextScalePrior, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) for name, value in prior.state_dict().items()}


class PlainLlama:
    """LlamaGen's decoding as official code does it.

    Args:
        prior: whose weights it takes.
        dtype: of weights, cache and activations.
        guidance: strength of guidance towards class 1, which doubles the batch; None for no class.
    """

    def __init__(self, prior: LlamaPrior, dtype: torch.dtype, guidance: float | None) -> None:
        length, model = SIDE * SIDE, prior.model
        self.weights, self.guidance = weights(prior, dtype), guidance
        device = model.norm.weight.device
        self.labels = labels(prior, guidance).to(device)
        self.rows, self.layers = len(self.labels), len(model.layers)
        self.heads, self.head_dim = model.heads, model.head_dim
        self.rotary = prior.rotary(Layout(1, SIDE, SIDE)).float()
        shape = self.layers, 2, self.rows, self.heads, length, self.head_dim
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        self.mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()

    def norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-5)
        return wide.to(x.dtype) * self.weights[f"model.{name}.weight"]

    def turned(self, x: Tensor, place: int) -> Tensor:
        pairs = x.float().unflatten(-1, (-1, 2))
        cos, sin = self.rotary[place, :, 0], self.rotary[place, :, 1]
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)

    def step(self, x: Tensor, place: int) -> Tensor:
        """Inputs [rows, 1, D] at a position to logits [rows, 1, V] float32."""
        w = self.weights
        for i in range(self.layers):
            here = f"model.layers.{i}"
            qkv = F.linear(self.norm(x, f"layers.{i}.attention_norm"), w[f"{here}.attention.wqkv.weight"])
            q, k, v = (part.view(self.rows, 1, self.heads, self.head_dim) for part in qkv.chunk(3, -1))
            q, k = self.turned(q, place), self.turned(k, place)
            keys, values = self.cache[i]
            keys[:, :, place], values[:, :, place] = k[:, 0], v[:, 0]
            mask = self.mask[place : place + 1]
            y = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask)
            x = x + F.linear(y.transpose(1, 2).flatten(2), w[f"{here}.attention.wo.weight"])
            h = self.norm(x, f"layers.{i}.ffn_norm")
            gate = F.silu(F.linear(h, w[f"{here}.feed_forward.w1.weight"]))
            h = gate * F.linear(h, w[f"{here}.feed_forward.w3.weight"])
            x = x + F.linear(h, w[f"{here}.feed_forward.w2.weight"])
        return F.linear(self.norm(x, "norm"), w["model.output.weight"]).float()

    def decode(self, tokens: Tensor) -> Tensor:
        """Logits [1, n, V] of tokens [1, n]."""
        x = self.weights["model.cls_embedding.weight"][self.labels][:, None]
        found = []
        for place in range(tokens.shape[1]):
            logits = self.step(x, place)
            if self.guidance is not None:
                given, null = logits.chunk(2)
                logits = null + (given - null) * self.guidance
            found.append(logits)
            x = self.weights["model.tok_embeddings.weight"][tokens[:, place : place + 1]].repeat(self.rows, 1, 1)
        return torch.cat(found, 1)


class PlainVar:
    """VAR's decoding as official code does it. Arguments as for `PlainLlama`."""

    def __init__(self, prior: NextScalePrior, dtype: torch.dtype, guidance: float | None) -> None:
        self.weights, self.sums, self.guidance = weights(prior, dtype), weights(prior, torch.float32), guidance
        self.labels = labels(prior, guidance).to(prior.model.start.device)
        self.sides, self.convolutions = prior.sides, prior.scales.convolutions
        self.layers, self.heads, self.levels = len(prior.model.layers), prior.model.heads, prior.model.levels

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"model.{name}.weight"], self.weights[f"model.{name}.bias"])

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (scale + 1) + shift

    def attention(self, x: Tensor, layer: int, caches: list[tuple[Tensor, ...]]) -> Tensor:
        name = f"layers.{layer}.attention"
        q, k, v = self.linear(x, f"{name}.qkv").unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        factor = self.weights[f"model.{name}.scale.log_scale"].clamp(max=4.605170185988092).exp()
        q, k = F.normalize(q, dim=-1) * factor, F.normalize(k, dim=-1)
        if caches[layer]:
            k, v = (torch.cat(pair, dim=2) for pair in zip(caches[layer], (k, v), strict=True))
        caches[layer] = k, v
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.linear(y.transpose(1, 2).flatten(2), f"{name}.proj")

    def scale(self, x: Tensor, condition: Tensor, caches: list[tuple[Tensor, ...]]) -> Tensor:
        """Inputs [rows, n, D] of a scale to logits [rows, n, V] float32."""
        signal = F.silu(condition)[:, None]
        for i in range(self.layers):
            vectors = self.linear(signal, f"layers.{i}.modulation.layers.1").chunk(6, -1)
            gamma1, gamma2, scale1, scale2, shift1, shift2 = vectors
            x = x + gamma1 * self.attention(self.modulated(x, scale1, shift1), i, caches)
            h = F.gelu(self.linear(self.modulated(x, scale2, shift2), f"layers.{i}.feed_forward.0"), approximate="tanh")
            x = x + gamma2 * self.linear(h, f"layers.{i}.feed_forward.2")
        scale, shift = self.linear(signal, "norm_modulation.layers.1").chunk(2, -1)
        return self.linear(self.modulated(x, scale, shift), "head").float()

    def term(self, tokens: Tensor, scale: int) -> Tensor:
        """What the tokens [1, p * p] of a scale add to the reconstruction."""
        side, last, phi = self.sides[scale], self.sides[-1], f"scales.phi.{self.convolutions[scale]}"
        h = self.sums["scales.codebook.weight"][tokens].transpose(1, 2).unflatten(-1, (side, side))
        if side != last:
            h = F.interpolate(h, (last, last), mode="bicubic")
        return h * 0.5 + F.conv2d(h, self.sums[f"{phi}.weight"], self.sums[f"{phi}.bias"], padding=1) * 0.5

    def decode(self, tokens: Tensor) -> Tensor:
        """Logits [1, L, V] of the tokens [1, L] of all scales."""
        condition = self.weights["model.class_embedding.weight"][self.labels]
        places = self.weights["model.positions"] + self.weights["model.level_embedding.weight"][self.levels]
        caches: list[tuple[Tensor, ...]] = [()] * self.layers
        x, f_hat, found = condition[:, None] + self.weights["model.start"], None, []
        for scale, (first, stop) in enumerate(scale_spans(self.sides)):
            logits = self.scale(x + places[:, first:stop], condition, caches)
            if self.guidance is not None:
                strength = self.guidance * scale / (len(self.sides) - 1)
                given, null = logits.chunk(2)
                logits = given * (1 + strength) - null * strength
            found.append(logits)
            if stop < tokens.shape[1]:
                term, side = self.term(tokens[:, first:stop], scale), self.sides[scale + 1]
                f_hat = term if f_hat is None else f_hat + term
                features = F.interpolate(f_hat, (side, side), mode="area").flatten(2).transpose(1, 2)
                x = self.linear(features.to(x.dtype), "word_embedding").repeat(len(self.labels), 1, 1)
        return torch.cat(found, 1)


def labels(prior: Prior, guidance: float | None) -> Tensor:
    """Class 1 and no class, or no class alone."""
    assert prior.classes is not None
    return torch.tensor([prior.classes] if guidance is None else [1, prior.classes])


def decode(prior: Prior, tokens: Tensor, condition: Condition) -> Iterator[Tensor]:
    """Logits [1, n, V] of the blocks of tokens [1, n], as the coder takes them, in nats."""
    blocks, done = prior.blocks(Layout(1, SIDE, SIDE), condition), 0
    block = next(blocks)
    while True:
        yield block.distribution.logits / 8  # type: ignore[attr-defined]
        count = block.distribution.shape[1]
        done += count
        if done == tokens.shape[1]:
            return
        block = blocks.send(tokens[:, done - count : done])


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


def compare(shape: str, count: int, rounds: int, device: torch.device, guided: bool) -> None:
    """Print tokens per second of all four."""
    guidance = 4.0 if guided else None
    condition = Condition(label=1 if guided else None, guidance=guidance)
    prior = make(shape, device)
    plain, count = (PlainLlama, count) if shape in LLAMAS else (PlainVar, prior.count)
    vocabulary = prior.alphabets["tokens"]
    tokens = torch.randint(0, vocabulary, (1, count), generator=torch.Generator().manual_seed(0)).to(device)
    loops = {dtype: plain(prior, dtype, guidance) for dtype in (torch.float32, torch.bfloat16)}
    native, exact = prepare(prior, "native"), prepare(make(shape, device), "exact")
    ours = torch.cat(list(decode(native, tokens, condition)), 1)
    torch.testing.assert_close(loops[torch.float32].decode(tokens), ours, atol=0.07, rtol=0)  # a grid of 1/8
    works = {
        "plain loop, float32": lambda: loops[torch.float32].decode(tokens),
        "plain loop, bfloat16": lambda: loops[torch.bfloat16].decode(tokens),
        "obverse, native float32": lambda: list(decode(native, tokens, condition)),
        "obverse, exact": lambda: list(decode(exact, tokens, condition)),
    }
    times = least(works, rounds, device)
    batch = "guided, batch doubled" if guided else "batch 1"
    print(f"{NAMES[shape]} shape, {count} tokens, {batch}, {device}, {torch.get_num_threads()} threads:")
    for name, seconds in times.items():
        ratio = times["plain loop, float32"] / seconds
        print(f"  {name}: {seconds:.3f} s, {count / seconds:.1f} tokens/s ({ratio:.2f}x)", flush=True)


def image_seconds(shape: str, mode: str, device: torch.device) -> float:
    """Seconds to decode the tokens of a picture of 512x512 pixels, the second of two times."""
    prior = prepare(make(shape, device), mode)
    grid = prior if prior.window is None else Windowed(prior)
    if shape in LLAMAS:
        layout, count = Layout(1, 32, 32), 32 * 32
    else:
        side = prior.sides[-1]
        layout, count = Layout((32 // side) ** 2, side, side), prior.count
    tokens = torch.randint(0, prior.alphabets["tokens"], (layout.batch, count)).to(device)
    work = {mode: lambda: run(grid.blocks(layout, Condition()), Known({"tokens": tokens}))}
    return least(work, 2, device)[mode]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=NAMES, default=["B", "L", "d16"])
    parser.add_argument("--tokens", type=int, default=SIDE * SIDE, help="how many LlamaGen decodes, up to 256")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guided", action="store_true", help="double the batch, for classifier-free guidance")
    parser.add_argument("--images", nargs="*", choices=NAMES, default=["3B", "d30"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for shape in options.shapes:
        compare(shape, options.tokens, options.rounds, options.device, options.guided)
    if options.images and not torch.cuda.is_available():
        print(f"pictures of 512x512 pixels under {', '.join(options.images)}: skipped, they need CUDA")
        return
    for shape in options.images:
        for mode in ("native", "exact"):
            seconds = image_seconds(shape, mode, torch.device("cuda"))
            print(f"{NAMES[shape]} shape, a picture of 512x512 pixels, {mode}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
