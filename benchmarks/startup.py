"""Start-up time of commands that load no network.

python benchmarks/startup.py [--repeat 10]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    options = parser.parse_args()
    for words in (["--help"], ["compress", "--help"], ["list"], ["plugins"]):
        seconds = []
        for _ in range(options.repeat):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "obverse", *words], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        print(f"obverse {' '.join(words):<16} median {median(seconds):.3f} s, slowest {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
