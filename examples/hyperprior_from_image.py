"""Take the hyper-latents z from a picture and draw the latents y: what z knows of a picture, and what it leaves open.

python examples/hyperprior_from_image.py [IMAGE] [FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

import obverse


def main(source: str = "examples/images/brushes.jpg", folder: str = "out") -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)

    codec = obverse.load("pocket-hyper", quality=4)
    for temperature in (0.0, 1.0):  # the most probable y, and a random one
        (picture,) = codec.generate(known=Image.open(source), keep="z", temperature=temperature)
        picture.save(out / f"hyperprior-{temperature}.png")
        print(out / f"hyperprior-{temperature}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
