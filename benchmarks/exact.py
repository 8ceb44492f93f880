"""What exactness costs: exact against native float32, as ratios in one run.

    python benchmarks/exact.py [--images FOLDER] [--threads 1 2] [--backends]

Steps and passes of next-token priors, with the shape of LlamaGen-B (random weights, one window of 16x16 tokens) and
with pocket-vq's own weights (one window, and the four of a 512x512 picture): the network alone, from tokens to logits.
Then encoding against decoding of a window, with the range coder. With --images, the ideal size of pictures, cut to
their central 512x512 pixels, under pocket-vq in both modes.

Times are the least of several rounds in which the modes take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

import obverse
from obverse.coders.range import RangeCoder
from obverse.exact import BACKENDS, use_backend
from obverse.exact.backends import backend_for
from obverse.images import read_image
from obverse.interfaces import Condition, Layout, Prior
from obverse.loop import Decoding, Encoding, Known, run
from obverse.next_token import LlamaPrior
from obverse.numerics import prepare

SIDE = 16
LENGTH = SIDE * SIDE


def least(*works: Callable[[], object], rounds: int = 3) -> list[float]:
    """Seconds of each work, the least of several rounds in which they take turns."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def llamagen_b() -> LlamaPrior:
    """A prior of LlamaGen-B's shape: 12 layers of 768, 16,384 tokens; 111 million random weights."""
    torch.manual_seed(0)
    return LlamaPrior(vocabulary=16384, dim=768, layers=12, heads=12, hidden=2048, classes=1000, window=SIDE).eval()


def pocket() -> LlamaPrior:
    prior = obverse.load("pocket-vq", numerics="native").pipeline.prior
    assert isinstance(prior, LlamaPrior)
    return prior


def steps(prior: LlamaPrior, tokens: torch.Tensor) -> None:
    """The network of a whole decode: one step per token with a cache."""
    model, rotary = prior.model, prior.rotary(Layout(len(tokens), SIDE, SIDE))
    caches = model.caches(len(tokens), LENGTH)
    for t in range(LENGTH):
        model.output(model.hidden_states(model.tok_embeddings(tokens[:, t : t + 1]), rotary[t : t + 1], caches))


def compare(name: str, make: Callable[[], LlamaPrior], batch: int) -> None:
    """Print times of steps and of the pass in both modes."""
    tokens = torch.randint(0, make().model.vocabulary, (batch, LENGTH), generator=torch.Generator().manual_seed(0))
    native, exact = prepare(make(), "native"), prepare(make(), "exact")
    assert isinstance(native, LlamaPrior)
    assert isinstance(exact, LlamaPrior)
    step = least(lambda: steps(native, tokens), lambda: steps(exact, tokens))
    sizes = Layout(batch, SIDE, SIDE), Condition()
    whole = least(lambda: native.logits(tokens, *sizes), lambda: exact.logits(tokens, *sizes), rounds=5)
    print(
        f"  {name}: step {1e3 * step[0] / LENGTH:.2f} -> {1e3 * step[1] / LENGTH:.2f} ms ({step[1] / step[0]:.2f}x), "
        f"pass {1e3 * whole[0]:.0f} -> {1e3 * whole[1]:.0f} ms ({whole[1] / whole[0]:.2f}x)"
    )


def code(prior: Prior) -> None:
    """Print times of encoding and decoding one window, and check that it comes back."""
    layout, condition = Layout(1, SIDE, SIDE), Condition()
    alphabet = prior.alphabets["tokens"]
    assert alphabet is not None
    tokens = torch.randint(0, alphabet, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    data = b""

    def encode() -> None:
        nonlocal data
        encoder = RangeCoder().encoder()
        run(prior.teacher_forced({"tokens": tokens}, layout, condition), Encoding(Known({"tokens": tokens}), [encoder]))
        data = encoder.finish()

    def decode() -> None:
        coded = run(prior.blocks(layout, condition), Decoding([RangeCoder().decoder(data)]))
        assert torch.equal(torch.cat([part.symbols for part in coded], 1), tokens)

    encode()
    encoding, decoding = least(encode, decode)
    print(f"  LlamaGen-B window: encode {encoding:.2f} s, decode {decoding:.2f} s ({decoding / encoding:.1f}x)")


def rates(folder: Path) -> None:
    """Print the ideal size of all pictures of a folder in both modes."""
    bits = {}
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg", ".webp"))
    for mode in ("native", "exact"):
        codec = obverse.load("pocket-vq", numerics=mode)
        bits[mode] = 0.0
        for file in files:
            pixels = read_image(file).pixels
            top, left = (max(0, side - 512) // 2 for side in pixels.shape[:2])
            bits[mode] += codec.rate(pixels[top : top + 512, left : left + 512]).bits
    print(
        f"rate of {len(files)} pictures: {bits['native']:.0f} -> {bits['exact']:.0f} bits "
        f"({100 * (bits['exact'] / bits['native'] - 1):+.4f} %)"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures for the rate")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backends", action="store_true", help="time every backend, not only the fastest")
    options = parser.parse_args()
    for count in options.threads:
        torch.set_num_threads(count)
        for backend in BACKENDS if options.backends else (backend_for(torch.device("cpu")),):
            print(f"{count} thread{'s' if count > 1 else ''}, backend {backend}, native float32 -> exact:")
            with use_backend(backend):
                compare("LlamaGen-B shape", llamagen_b, 1)
                compare("pocket-vq, 1 window", pocket, 1)
                compare("pocket-vq, 4 windows", pocket, 4)
                code(prepare(llamagen_b(), "exact"))
    if options.images:
        rates(options.images)


if __name__ == "__main__":
    main()
