"""`python -m obverse.selftest --record`: write the hashes of this machine to golden.json."""

from __future__ import annotations

import argparse

from obverse.selftest.cases import all_cases
from obverse.selftest.run import GOLDEN, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", required=True, help="overwrite golden.json")
    parser.parse_args()
    record(all_cases())
    print(f"written: {GOLDEN}")


if __name__ == "__main__":
    main()
