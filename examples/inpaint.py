"""Keep the tokens of a picture's upper half, and let the prior draw the lower one.

python examples/inpaint.py [IMAGE] [FOLDER]"""

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
    codec = obverse.load("pocket-vq")
    parts, condition, stride = codec.pipeline, codec.condition(None), codec.pipeline.encoder.stride
    pixels = as_pixels(Image.open(source))
    rows, columns = pixels.shape[0] // stride, pixels.shape[1] // stride
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float() / 255
    latents = parts.encoder.encode(images[:, :, : rows * stride, : columns * stride], condition)
    known = parts.quantizer.symbols(latents)

    # The loop asks for every block of symbols; the mixture answers what it knows and draws the rest.
    mask = torch.arange(rows * columns) < rows // 2 * columns
    draw = Sampling(torch.Generator().manual_seed(0), temperature=0.9)
    layout = Layout(1, rows, columns)
    coded = run(parts.grid_prior.blocks(layout, condition), Mixture(known, draw, {"tokens": mask}))

    path = Path(folder) / "inpainted.png"
    save_rows(path, [parts.encoder.decode(parts.quantizer.dequantize(coded, layout), condition)])
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
