"""Compress a picture to a file of a few kilobytes, and get a picture back.

python examples/compress_decompress.py [IMAGE] [FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

import obverse


def main(source: str = "examples/images/brushes.jpg", folder: str = "out") -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    image = Image.open(source)

    codec = obverse.load("pocket-vq")
    data = codec.compress(image)
    (out / "compressed.obv").write_bytes(data)
    print(f"{len(data)} bytes, {8 * len(data) / (image.width * image.height):.4f} bits per pixel")

    # Whoever gets the file needs no name: the stream says which installed codec wrote it.
    picture = obverse.decompress((out / "compressed.obv").read_bytes())
    picture.save(out / "decompressed.png")
    print(f"{out / 'decompressed.png'}: {picture.width}x{picture.height}")


if __name__ == "__main__":
    main(*sys.argv[1:])
