"""A prior of your own: every token is as probable as it was frequent so far. No weights, nothing to train.

python examples/custom_part.py [IMAGE]"""

import sys

import torch

from obverse import load
from obverse.images import read_image
from obverse.interfaces import Block, Prior
from obverse_registry import Component, hookimpl, registry


class CountingPrior(Prior):
    def __init__(self, *, alphabets):
        self.alphabets = dict(alphabets)

    def blocks(self, layout, condition):
        for name, size in self.alphabets.items():
            counts = torch.full((layout.batch, 1, size), 0.05, dtype=torch.float64)
            for row in torch.arange(layout.height * layout.width).split(layout.width):
                logits = counts.log().expand(-1, len(row), -1)
                tokens = yield Block(name, self.categorical(logits), row)
                counts.scatter_add_(2, tokens[:, None].cpu(), torch.ones(layout.batch, 1, len(row)).double())


class Plugin:
    @hookimpl
    def obverse_components(self):
        return [Component("prior", "counting", f"{__name__}:CountingPrior", "frequencies so far")]


if __name__ == "__main__":
    registry().add(Plugin(), "example")  # an installed plugin is found by its entry point instead
    image = read_image(sys.argv[1] if len(sys.argv) > 1 else "examples/images/brushes.jpg").pixels
    for prior in ("uniform", "counting"):
        result = load("pocket-vq", parts={"prior": prior}).reconstruct(image)
        print(f"{prior}: {len(result.data)} bytes, {result.psnr:.2f} dB")
