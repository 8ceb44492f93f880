"""Numbers of exact layers and of a small transformer, and their hashes.

As a program it prints the hashes as JSON, for a test that starts it under one set of instructions after the other:

    python exact_numbers.py [mkldnn=off]

Beside the exact numbers of every backend it prints numbers that do depend on kernels: float32 results, and a product
of full-range bytes. They show that a process really ran other kernels.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from obverse.exact import BACKENDS, convert, use_backend
from obverse.exact.attention import Attend
from obverse.nn.gdn import GDN
from obverse.nn.llama import Llama, rotary_2d
from obverse.nn.masked import MaskedConv2d, causal_taps, checkerboard_taps
from obverse.nn.norms import RMSNorm, UnitNorm
from obverse.selftest.seeded import fill, integers, uniform

LENGTH, SIDE = 24, 6


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Float layers with seeded weights, and shapes of inputs; some are large enough for several threads."""
    pairs: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "linear": (nn.Linear(301, 77), (3, 301)),
        "linear, one row": (nn.Linear(2500, 70), (1, 2500)),
        "linear, many rows": (nn.Linear(512, 512, bias=False), (600, 512)),
        "convolution": (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), (2, 8, 19, 17)),
        "depthwise convolution": (nn.Conv2d(6, 6, 5, padding=4, dilation=2, groups=6), (2, 6, 9, 9)),
        "causal convolution": (MaskedConv2d(6, 10, causal_taps(5)), (2, 6, 11, 13)),
        "checkerboard convolution": (MaskedConv2d(6, 10, checkerboard_taps(5)), (1, 6, 11, 13)),
        "transposed convolution": (nn.ConvTranspose2d(9, 5, 5, 2, 2, 1), (2, 9, 7, 8)),
        "division": (GDN(10), (2, 10, 9, 9)),
        "multiplication": (GDN(10, inverse=True), (2, 10, 9, 9)),
        "layer norm": (nn.LayerNorm(300), (64, 300)),
        "rms norm": (RMSNorm(300), (64, 300)),
        "unit norm": (UnitNorm(), (64, 300)),
        "sigmoid": (nn.Sigmoid(), (40, 999)),
        "tanh": (nn.Tanh(), (40, 999)),
        "silu": (nn.SiLU(), (40, 999)),
        "gelu": (nn.GELU(), (40, 999)),
        "gelu, tanh form": (nn.GELU("tanh"), (40, 999)),
        "softplus": (nn.Softplus(), (40, 999)),
    }
    return {name: (seeded(layer, name), shape) for name, (layer, shape) in pairs.items()}


def seeded(layer: nn.Module, name: str) -> nn.Module:
    """The layer with weights that come from its name alone; those of a GDN are not negative."""
    if isinstance(bias := getattr(layer, "bias", None), Tensor):
        nn.init.zeros_(bias)
    fill(layer.requires_grad_(False), name)
    if isinstance(layer, GDN):
        layer.gamma.abs_()
    return layer


def values(shape: tuple[int, ...], name: str) -> Tensor:
    """Float64 inputs, every one of the batch with another magnitude."""
    x = uniform(shape, name).double() * 7
    factors = torch.tensor([1.0, 0.01, 300.0, 1e-6, 5.0, 1e6, 0.3], dtype=torch.float64)
    return x * factors[torch.arange(len(x)) % len(factors)].view(-1, *[1] * (x.ndim - 1))


def llama() -> Llama:
    model = Llama(vocabulary=259, dim=64, layers=3, heads=4).requires_grad_(False)
    return fill(model, "llama", 1.5)


def parallel(model: Llama) -> Tensor:
    """Logits of all positions at once."""
    inputs, rotary = _sequence(model)
    return model.output(model.hidden_states(inputs, rotary))  # type: ignore[no-any-return]


def step_by_step(model: Llama) -> Tensor:
    """Logits of one position after the other."""
    inputs, rotary = _sequence(model)
    caches = model.caches(len(inputs), LENGTH)
    steps = [model.hidden_states(inputs[:, t : t + 1], rotary[t : t + 1], caches) for t in range(LENGTH)]
    return torch.cat([model.output(step) for step in steps], 1)


def _sequence(model: Llama) -> tuple[Tensor, Tensor]:
    cells = torch.arange(LENGTH)
    tokens = integers((2, LENGTH), model.vocabulary, "tokens").to(model.tok_embeddings.weight.device)
    return model.tok_embeddings(tokens), rotary_2d(cells // SIDE, cells % SIDE, model.head_dim).to(tokens.device)


def exact_numbers(device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Name and result of every part, by the backend in use."""
    for name, (layer, shape) in layers().items():
        yield name, convert(layer).to(device)(values(shape, name).to(device))
    attend = Attend()
    q, k, v = (uniform((2, 3, 33, 20), name).double().to(device) * 9 for name in "qkv")
    yield "attention", attend(q, attend.keys(k), attend.values(v), causal=True)
    model = convert(llama()).to(device)
    yield "llama, parallel", parallel(model)
    yield "llama, step by step", step_by_step(model)


def float_numbers() -> Iterator[tuple[str, Tensor]]:
    """Results in float32, different from one set of kernels to another."""
    for name, (layer, shape) in layers().items():
        yield name, layer(values(shape, name).float())
    yield "llama", parallel(llama())


def full_range_bytes() -> Tensor:
    """A product of bytes up to 127: sums of two products are beyond 16 bits."""
    left, right = (integers((size, 128), 255, name) - 127 for size, name in ((32, "left"), (48, "right")))
    left[0], right[0] = 127, 127
    return torch._int_mm(left.to(torch.int8), right.to(torch.int8).t())


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def digests(backend: str, device: str = "cpu") -> dict[str, str]:
    """Hashes of all exact numbers."""
    with use_backend(backend):
        return {name: digest(result) for name, result in exact_numbers(device)}


def main() -> None:
    if "mkldnn=off" in sys.argv:
        torch.backends.mkldnn.set_flags(False)
    report = {
        "exact": {backend: digests(backend) for backend in BACKENDS},
        "float32": {name: digest(result) for name, result in float_numbers()},
        "bytes": digest(full_range_bytes()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
