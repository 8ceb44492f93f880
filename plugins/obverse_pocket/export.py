"""Trained weights to the file that ships: float16, or int8 with a scale per row.

python -m obverse_pocket.export OUT.safetensors RUN/weights.safetensors ... [--parts PART ...] [--int8]
    [--note KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from obverse.weights import read_tensors, write_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", type=Path, nargs="+", help="files whose tensors are put together")
    parser.add_argument("--parts", nargs="+", help="of the codec that are kept, as encoder quantizer (default: all)")
    parser.add_argument("--int8", action="store_true", help="store matrices as int8")
    parser.add_argument("--note", action="append", default=[], help="metadata, as licence=Apache-2.0")
    options = parser.parse_args()
    tensors = {}
    for file in options.weights:
        tensors |= read_tensors(file)
    if options.parts:
        tensors = {key: value for key, value in tensors.items() if key.partition(".")[0] in options.parts}
    metadata = dict(note.split("=", 1) for note in options.note)
    write_tensors(options.out, tensors, metadata, int8=options.int8)
    print(f"{options.out}: {len(tensors)} tensors, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
