"""The other side of `compressai_env.Peer`: runs where CompressAI is installed, and knows nothing of this project."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# torchvision's wheel expects operators of a CUDA build; their names are enough to import it.
_LIBRARY = torch.library.Library("torchvision", "DEF")
_LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional  # noqa: E402
from compressai.models import (  # noqa: E402
    Cheng2020Anchor,
    Cheng2020Attention,
    CompressionModel,
    Elic2022Chandelier,
    Elic2022Official,
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
    google,
)

MODELS: dict[str, Callable[..., CompressionModel]] = {
    "bmshj2018-factorized": FactorizedPrior,
    "bmshj2018-hyperprior": ScaleHyperprior,
    "mbt2018-mean": MeanScaleHyperprior,
    "mbt2018": JointAutoregressiveHierarchicalPriors,
    "cheng2020-anchor": Cheng2020Anchor,
    "cheng2020-attn": Cheng2020Attention,
    "elic": Elic2022Official,
    "elic-chandelier": Elic2022Chandelier,
}


class Stopwatch:
    """Seconds inside the entropy coder: build_indexes, conversion to lists, rANS.

    In the models that code cell by cell the symbols of a cell are converted outside of it, which is not counted.
    """

    def __init__(self) -> None:
        self.seconds, self.clock, self._inside = 0.0, time.perf_counter, False
        for owner, names in (
            (EntropyModel, ("compress", "decompress")),
            (EntropyBottleneck, ("compress", "decompress")),
            (GaussianConditional, ("build_indexes",)),
        ):
            for name in names:
                setattr(owner, name, self.watched(getattr(owner, name)))

        class Encoder(google.BufferedRansEncoder):
            encode_with_indexes = self.watched(google.BufferedRansEncoder.encode_with_indexes)
            flush = self.watched(google.BufferedRansEncoder.flush)

        class Decoder(google.RansDecoder):
            decode_stream = self.watched(google.RansDecoder.decode_stream)

        google.BufferedRansEncoder, google.RansDecoder = Encoder, Decoder

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return function(*arguments, **named)
            self._inside, start = True, self.clock()
            try:
                return function(*arguments, **named)
            finally:
                self._inside = False
                self.seconds += self.clock() - start

        return run


WATCH = Stopwatch()


def _sigma_layers(net: CompressionModel) -> list[tuple[nn.Module, slice, bool]]:
    """Last layers of the networks of scales, whose channels of y they serve, and whether means follow the scales."""
    if isinstance(net, JointAutoregressiveHierarchicalPriors):
        return [(net.entropy_parameters[-1], slice(None), True)]
    if isinstance(net, MeanScaleHyperprior):
        return [(net.h_s[-1], slice(None), True)]
    if isinstance(net, ScaleHyperprior):
        return [(net.h_s[-2], slice(None), False)]
    if isinstance(net, FactorizedPrior):
        return []
    layers, first = [], 0
    for index, channels in enumerate(net.groups):
        network = net.latent_codec["y"].latent_codec[f"y{index}"].entropy_parameters
        layers.append((network[-1], slice(first, first + channels), True))
        first += channels
    return layers


def _adjust(layer: nn.Module, mean: Tensor, spread: Tensor) -> None:
    """When the layer first runs, give each of its output channels a mean and a spread."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        handle.remove()
        axes = (0, 2, 3)
        factor = spread / output.std(axes).clamp(min=1e-12)
        weight_shape = [1] * module.weight.ndim
        weight_shape[1 if isinstance(module, nn.ConvTranspose2d) else 0] = -1
        shift = mean - output.mean(axes) * factor
        module.weight.data *= factor.view(weight_shape)
        module.bias.data.mul_(factor).add_(shift)
        return output * factor[:, None, None] + shift[:, None, None]

    handle = layer.register_forward_hook(hook)


@torch.no_grad()
def make(architecture: str, arguments: list[int], seed: int, image: Tensor, typical: float) -> dict[str, Any]:
    """Random weights that behave as trained ones do where it matters for time.

    Channels of y get a spread each, log-normal as those of trained models; the last layers of the networks of scales
    are given one and a half of these as their means, with some variation around them: y of an untrained network has
    heavy tails, and this leaves few symbols outside of the coder's tables.

    Args:
        architecture: one of `MODELS`.
        arguments: of its class.
        seed: of everything random.
        image: [1, 3, H, W] on which statistics are taken.
        typical: median spread of y.
    """
    torch.manual_seed(seed)
    net = MODELS[architecture](*arguments).eval()
    convolutions = [module for module in net.g_a if isinstance(module, nn.Conv2d)] or [net.g_a[-1]]
    last = convolutions[-1]
    channels = last.out_channels
    spread = typical * torch.exp(torch.randn(channels))
    _adjust(last, torch.zeros(channels), spread)
    y = net.g_a(image)
    spread = y.std((0, 2, 3))
    if isinstance(net, FactorizedPrior):
        first = net.entropy_bottleneck.matrices[0]
        narrow = nn.functional.softplus(first) * (net.entropy_bottleneck.init_scale / 3 / spread)[:, None, None]
        first.copy_(narrow + torch.log(-torch.expm1(-narrow)))
    else:
        hyper = net.h_a if hasattr(net, "h_a") else net.latent_codec["hyper"].h_a
        width = [module for module in hyper.modules() if isinstance(module, nn.Conv2d)][-1]
        _adjust(width, torch.zeros(width.out_channels), torch.full((width.out_channels,), 2.0))
    for layer, part, has_means in _sigma_layers(net):
        own = 1.5 * spread[part]
        mean, around = own, own * 0.4
        if has_means:
            mean, around = torch.cat([own, own * 0]), torch.cat([own * 0.4, own * 0.3])
        _adjust(layer, mean, around)
    net(image)
    net.update(force=True, update_quantiles=True)
    return {"weights": net.state_dict()}


@contextmanager
def _settings(threads: int, mkldnn: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            yield
    finally:
        torch.set_num_threads(before)


def _timed(function: Callable[[], dict[str, Any]], repeats: int) -> tuple[dict[str, Any], list[float], list[float]]:
    """Result of the last run, seconds of each, and seconds in the coder of each."""
    totals, coding = [], []
    for _ in range(repeats):
        WATCH.seconds, start = 0.0, WATCH.clock()
        result = function()
        totals.append(WATCH.clock() - start)
        coding.append(WATCH.seconds)
    return result, totals, coding


_models: dict[str, CompressionModel] = {}


def _model(architecture: str, arguments: list[int], weights: dict[str, Tensor] | None) -> CompressionModel:
    """With given weights, or the last one."""
    if weights is not None:
        net = MODELS[architecture](*arguments)
        net.load_state_dict(weights)
        _models["last"] = net.eval()
    return _models["last"]


def _flat(strings: Any) -> int:
    """Bytes of nested lists of strings."""
    return len(strings) if isinstance(strings, bytes) else sum(_flat(part) for part in strings)


@torch.no_grad()
def code(
    architecture: str,
    arguments: list[int],
    weights: dict[str, Tensor] | None,
    image: Tensor,
    threads: int = 1,
    repeats: int = 1,
    clock: str = "perf_counter",
    decode_threads: int | None = None,
    decode_mkldnn: bool = True,
    estimate: bool = True,
) -> dict[str, Any]:
    """Compress and decompress an image.

    Args:
        architecture: one of `MODELS`.
        arguments: of its class.
        weights: its state after `update`; None for those of the last call.
        image: [1, 3, H, W] in 0…1, sides multiples of 64.
        threads: of the encoder, and of the decoder where it has none of its own.
        repeats: runs to time.
        clock: of the module time, `perf_counter` or `process_time`.
        decode_threads: of the decoder.
        decode_mkldnn: whether the decoder uses oneDNN.
        estimate: run `forward` for the bits.

    Returns:
        Seconds of every run (`compress`, `decompress`), those of the coder in it (`compress_coding`,
        `decompress_coding`), `bytes`, `bits` that forward() estimates, `x_hat` [1, 3, H, W], the decoder's latents
        `y_hat` and those of a decoder with the encoder's settings, `sent`, if they differ.
    """
    WATCH.clock = getattr(time, clock)
    net = _model(architecture, arguments, weights)
    seen: list[Tensor] = []
    handle = net.g_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with _settings(threads, True):
        sent, compress, compress_coding = _timed(lambda: net.compress(image), repeats)
        if decode_threads is not None or not decode_mkldnn:
            net.decompress(sent["strings"], sent["shape"])
    own = seen[-1] if seen else None
    with _settings(decode_threads or threads, decode_mkldnn):
        received, decompress, decompress_coding = _timed(
            lambda: net.decompress(sent["strings"], sent["shape"]), repeats
        )
    handle.remove()
    answer = {
        "compress": compress,
        "compress_coding": compress_coding,
        "decompress": decompress,
        "decompress_coding": decompress_coding,
        "bytes": _flat(sent["strings"]),
        "x_hat": received["x_hat"],
        "y_hat": seen[-1],
        "sent": seen[-1] if own is None else own,
    }
    if estimate:
        with _settings(threads, True):
            likelihoods = net(image)["likelihoods"].values()
        answer["bits"] = float(sum(-part.double().log().sum() for part in likelihoods)) / math.log(2)
    return answer


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "version": lambda: {"compressai": version("compressai")},
    "make": make,
    "code": code,
}


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        file = Path(line.strip())
        message = torch.load(file, weights_only=True)
        torch.save(TASKS[message["task"]](**message["arguments"]), file)
        print("done", flush=True)


if __name__ == "__main__":
    main()
