"""Draw pictures: the same loop as compression, with random symbols in place of an image's.

python examples/generate.py [FOLDER] [SIDE]
"""

import sys
from pathlib import Path

import obverse


def main(folder: str = "out", side: str = "256") -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    size = int(side), int(side)

    codec = obverse.load("pocket-vq")
    for temperature in (0.7, 1.0):
        pictures = codec.generate(2, seed=1, size=size, temperature=temperature, top_k=500)
        for i, picture in enumerate(pictures):
            path = out / f"generated-{temperature}-{i}.png"
            picture.save(path)
            print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
