"""An environment of its own for CompressAI, and a process in it that codes pictures with it.

    python benchmarks/compressai_env.py [--folder ~/.cache/obverse/compressai]

CompressAI pins what it needs to older versions than this project; so it is a peer in comparisons, never a dependency.
About 1.4 GB. `Peer` starts `compressai_worker.py` there; both sides talk through files of `torch.save`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

FOLDER = Path.home() / ".cache" / "obverse" / "compressai"
PACKAGES = ("compressai==1.2.8", "torch==2.13.0", "numpy<2")
WORKER = Path(__file__).with_name("compressai_worker.py")


def python(folder: Path = FOLDER) -> Path:
    """The interpreter of an environment, which may not exist."""
    return folder / "bin" / "python"


def is_built(folder: Path = FOLDER) -> bool:
    return python(folder).exists() and any(folder.glob("lib/python*/site-packages/compressai/__init__.py"))


def build(folder: Path = FOLDER) -> None:
    """Make the environment; packages come from the configured index."""
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python(folder), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


class Peer:
    """A process with CompressAI loaded, as a context.

    Args:
        folder: of an environment that `build` made.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def __enter__(self) -> Peer:
        self._files = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [python(self._folder), WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._files.cleanup()

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Run a task of the worker with tensors and plain values, and give its answer.

        Raises:
            RuntimeError: the process ended; what it wrote to stderr says why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        file = Path(self._files.name) / "message.pt"
        torch.save({"task": task, "arguments": arguments}, file)
        print(file, file=self._process.stdin, flush=True)
        if self._process.stdout.readline().strip() != "done":
            raise RuntimeError(f"the process with CompressAI failed at {task!r}")
        answer: dict[str, Any] = torch.load(file, weights_only=True)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    build(options.folder)
    with Peer(options.folder) as peer:
        print(f"{options.folder}: CompressAI {peer.ask('version')['compressai']}", file=sys.stderr)


if __name__ == "__main__":
    main()
