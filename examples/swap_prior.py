"""One tokenizer, two priors: the size changes, the picture does not.

python examples/swap_prior.py [IMAGE] [FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

import obverse


def main(source: str = "examples/images/brushes.jpg", folder: str = "out") -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    image = Image.open(source)

    trained = obverse.load("pocket-vq")
    uniform = obverse.load("pocket-vq", parts={"prior": "uniform"})
    for name, codec in {"trained": trained, "uniform": uniform}.items():
        print(f"{name} prior: {codec.rate(image).bpp:.4f} bits per pixel")

    # The uniform prior needs no network to decode. Its stream names the swap: only a codec with the same
    # parts reads it.
    result = uniform.reconstruct(image)
    result.image.save(out / "uniform.png")
    print(f"{out / 'uniform.png'}: {len(result.data)} bytes, {result.psnr:.2f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
