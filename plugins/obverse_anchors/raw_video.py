"""Video codecs as image codecs: one frame of raw YCbCr to a program, a raw stream back, and the other way."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from obverse.evaluation.programs import ProgramError, run_program
from obverse_anchors.anchor import Anchor
from obverse_anchors.ycbcr import from_planes, to_planes


class RawVideoAnchor(Anchor):
    """A pair of programs for raw video.

    Attributes:
        suffix: of the raw stream.
        smallest: height and width that the encoder takes; smaller frames are padded.

    Args:
        qualities: quantisation parameters (QP), the largest first.
        chroma_format: "4:2:0" or "4:4:4".
        timeout: seconds that each program may take.
    """

    suffix: ClassVar[str]
    smallest: ClassVar[int] = 2
    bits = 10

    def __init__(
        self, *, qualities: Sequence[float] | None = None, chroma_format: str = "4:2:0", timeout: float = 3600.0
    ) -> None:
        super().__init__(qualities=qualities)
        self.chroma_format = chroma_format
        self.timeout = timeout

    @abstractmethod
    def encode_command(self, source: str, stream: str, width: object, height: object, quality: object) -> list[str]:
        """Words of a command from a file of planes, 16 bits per sample, to a stream."""

    @abstractmethod
    def decode_command(self, stream: str, target: str) -> list[str]:
        """Words of a command from a stream to a file of planes."""

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """See the base class."""
        height, width = self.padded(*pixels.shape[:2])
        edges = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
        planes = to_planes(np.pad(pixels, edges, mode="edge"), bits=self.bits, chroma_format=self.chroma_format)
        with tempfile.TemporaryDirectory(prefix="obverse-") as folder:
            source, stream = Path(folder) / "image.yuv", Path(folder) / f"image{self.suffix}"
            source.write_bytes(b"".join(plane.astype("<u2").tobytes() for plane in planes))
            self._run(self.encode_command(str(source), str(stream), width, height, quality))
            data = stream.read_bytes() if stream.is_file() else b""
        if not data:
            raise ProgramError(f"{self.name}: the encoder wrote no stream")
        return data

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """See the base class."""
        with tempfile.TemporaryDirectory(prefix="obverse-") as folder:
            stream, target = Path(folder) / f"image{self.suffix}", Path(folder) / "image.yuv"
            stream.write_bytes(data)
            self._run(self.decode_command(str(stream), str(target)))
            samples = np.fromfile(target, dtype="<u2") if target.is_file() else np.zeros(0, np.uint16)
        rows, columns = self.padded(height, width)
        halved = 2 if self.chroma_format == "4:2:0" else 1
        shapes = [(rows, columns), *[(rows // halved, columns // halved)] * 2]
        sizes = [shape[0] * shape[1] for shape in shapes]
        if len(samples) != sum(sizes):
            raise ProgramError(f"{self.name}: the decoder wrote {len(samples)} samples in place of {sum(sizes)}")
        parts = np.split(samples, np.cumsum(sizes)[:-1])
        planes = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return from_planes(planes, bits=self.bits)[:height, :width]

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frame: even, where chroma is halved, and no smaller than the encoder takes."""
        multiple = 2 if self.chroma_format == "4:2:0" else 1
        rows, columns = (max(-(-side // multiple) * multiple, self.smallest) for side in (height, width))
        return rows, columns

    def _run(self, words: list[str]) -> None:
        try:
            run_program(words, timeout=self.timeout)
        except ProgramError as error:
            raise ProgramError(f"{self.name}: {error}") from error
