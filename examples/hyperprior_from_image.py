"""Take the hyper-latents z from a picture and draw the latents y: what z knows of a picture, and what it leaves open.

python examples/hyperprior_from_image.py [IMAGE] [FOLDER]
"""

import sys
from pathlib import Path

import torch
from PIL import Image

import obverse
from obverse.interfaces import Layout
from obverse.loop import Mixture, Sampling, run
from obverse.pictures import save_rows
from obverse.pixels import as_pixels


@torch.inference_mode()
def main(source: str = "examples/images/brushes.jpg", folder: str = "out") -> None:
    codec = obverse.load("pocket-hyper")
    encoder, parts, condition = codec.pipeline.encoder, codec.pipeline, codec.condition(3)
    pixels = as_pixels(Image.open(source))
    height, width = (side // encoder.multiple * encoder.multiple for side in pixels.shape[:2])
    images = torch.from_numpy(pixels)[None, :height, :width].permute(0, 3, 1, 2).float() / 255
    z = encoder.encode(images, condition)["z"].round().long()

    layout = Layout(1, height // encoder.stride, width // encoder.stride)
    for temperature in (0.0, 1.0):  # the most probable y, and a random one
        symbols = Mixture({"z": z}, Sampling(torch.Generator().manual_seed(0), temperature))
        coded = run(parts.prior.blocks(layout, condition), symbols)
        path = Path(folder) / f"hyperprior-{temperature}.png"
        save_rows(path, [encoder.decode(parts.quantizer.dequantize(coded, layout), condition)])
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
