"""Where the bits go: by array of symbols, and how many of them the prior saves.

python examples/rate.py [IMAGE]
"""

import sys

from PIL import Image

import obverse


def main(source: str = "examples/images/brushes.jpg") -> None:
    image = Image.open(source)
    pixels = image.width * image.height

    # A hyperprior codec has two arrays: the latents y, and the hyper-latents z that describe their spread.
    codec = obverse.load("pocket-hyper")
    for quality in (1, codec.qualities):
        rate = codec.rate(image, quality=quality)
        shares = ", ".join(f"{name} {bits / 8:.0f} bytes" for name, bits in rate.bits_by_array.items())
        print(f"{codec.name} at quality {quality}: {rate.bpp:.4f} bpp ({shares})")

    # A tokenizer alone spends log2(4096) = 12 bits on every token; the prior makes likely tokens cheap.
    raw = obverse.load("pocket-vq", parts={"coder": "raw"}).compress(image)
    coded = obverse.load("pocket-vq").compress(image)
    print(f"pocket-vq, tokenizer alone: {len(raw)} bytes, {8 * len(raw) / pixels:.4f} bpp")
    print(f"pocket-vq, with its prior:  {len(coded)} bytes, {8 * len(coded) / pixels:.4f} bpp")


if __name__ == "__main__":
    main(*sys.argv[1:])
