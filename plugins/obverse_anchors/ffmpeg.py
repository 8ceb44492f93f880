"""HEVC and VVC intra frames by ffmpeg: the one on the PATH, or that of the optional package imageio-ffmpeg."""

from __future__ import annotations

import importlib.util
import re
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

from obverse.evaluation.programs import ProgramError, find_program, first_line, run_program
from obverse_anchors.options import CHROMA_FORMATS, check_choice
from obverse_anchors.raw_video import RawVideoAnchor
from obverse_anchors.ycbcr import CONVERSION

_QUIET = ("-hide_banner", "-nostdin", "-y", "-loglevel", "error")
_FORMATS = {"4:2:0": "yuv420p10le", "4:4:4": "yuv444p10le"}


class FfmpegAnchor(RawVideoAnchor):
    """A video codec of ffmpeg: one frame, 10 bits, raw stream, one thread.

    Attributes:
        encoder, decoder: their names in ffmpeg; `muxer` that of the raw stream.
    """

    encoder: ClassVar[str]
    decoder: ClassVar[str]
    muxer: ClassVar[str]

    @abstractmethod
    def options(self, quality: object) -> list[str]:
        """Words that set the encoder up."""

    @cached_property
    def program(self) -> str:
        """The first ffmpeg that has encoder and decoder.

        Raises:
            ProgramError: there is none.
        """
        for program in _programs():
            if _has(program, "encoders", self.encoder) and _has(program, "decoders", self.decoder):
                return program
        raise ProgramError(
            f"{self.name} needs ffmpeg with {self.encoder} and the decoder {self.decoder}: put one on the PATH, or "
            "pip install imageio-ffmpeg"
        )

    def missing(self) -> str | None:
        """Whether no ffmpeg has both encoder and decoder."""
        try:
            return None if self.program else ""
        except ProgramError as error:
            return str(error)

    def settings(self) -> Mapping[str, Any]:
        """See the base class."""
        encode = self.encode_command("IN.yuv", f"OUT{self.suffix}", "W", "H", "QP")
        version = first_line(run_program([self.program, "-version"], timeout=60)).partition(" Copyright")[0]
        return {
            "implementation": f"{self.encoder} in {version}",
            "command": shlex.join(["ffmpeg", *encode[1:]]),
            "chroma_format": self.chroma_format,
            "bit_depth": self.bits,
            "colour_conversion": CONVERSION,
        }

    def encode_command(self, source: str, stream: str, width: object, height: object, quality: object) -> list[str]:
        """See the base class."""
        return [
            self.program, *_QUIET, "-f", "rawvideo", "-pix_fmt", _FORMATS[self.chroma_format],
            "-video_size", f"{width}x{height}", "-i", source, "-frames:v", "1", "-c:v", self.encoder,
            *self.options(quality), "-f", self.muxer, stream,
        ]  # fmt: skip

    def decode_command(self, stream: str, target: str) -> list[str]:
        """See the base class."""
        return [
            self.program, *_QUIET, "-threads", "1", "-f", self.muxer, "-c:v", self.decoder, "-i", stream,
            "-f", "rawvideo", "-pix_fmt", _FORMATS[self.chroma_format], target,
        ]  # fmt: skip


class HevcIntra(FfmpegAnchor):
    """HEVC (ITU-T H.265) by x265: the coding tools of BPG without its container.

    Args:
        qualities: QP, 51 to 0, worst first.
        preset: of x265.
        chroma_format: 4:2:0 or 4:4:4.
        timeout: seconds that each program may take.
    """

    name = "hevc-intra"
    licence = "GPL-2.0-or-later"
    encoder, decoder, muxer, suffix = "libx265", "hevc", "hevc", ".hevc"
    lowest, highest = 0, 51
    defaults = (51, 49, 47, 45, 42, 39, 36, 33, 30, 26, 22)
    smallest = 16

    def __init__(
        self,
        *,
        qualities: Sequence[float] | None = None,
        preset: str = "veryslow",
        chroma_format: str = "4:2:0",
        timeout: float = 3600.0,
    ) -> None:
        super().__init__(
            qualities=qualities,
            chroma_format=check_choice(self.name, "chroma_format", chroma_format, CHROMA_FORMATS),
            timeout=timeout,
        )
        self.preset = preset

    def options(self, quality: object) -> list[str]:
        """See the base class. `ipratio=1`: otherwise intra frames get a smaller QP than the one asked for."""
        parameters = f"qp={quality}:keyint=1:ipratio=1:info=0:pools=none:frame-threads=1:log-level=error"
        return ["-preset", self.preset, "-x265-params", parameters]


class VvcIntra(FfmpegAnchor):
    """VVC (ITU-T H.266) by vvenc, which takes 4:2:0 only.

    Args:
        qualities: QP, 63 to 0, worst first.
        preset: of vvenc.
        timeout: seconds that each program may take.
    """

    name = "vvc-intra"
    licence = "BSD-3-Clause-Clear"
    encoder, decoder, muxer, suffix = "libvvenc", "vvc", "vvc", ".vvc"
    lowest, highest = 0, 63
    defaults = (63, 59, 56, 53, 50, 47, 43, 39, 35, 31, 27, 22)
    smallest = 16

    def __init__(
        self, *, qualities: Sequence[float] | None = None, preset: str = "medium", timeout: float = 3600.0
    ) -> None:
        super().__init__(qualities=qualities, timeout=timeout)
        self.preset = preset

    def options(self, quality: object) -> list[str]:
        """See the base class. `qpa 0`: QPs are not changed for the eye."""
        return ["-preset", self.preset, "-qpa", "0", "-qp", str(quality), "-threads", "1"]


class VvcIntraShort(VvcIntra):
    """The same without tables for other pictures: about 110 bytes less, which counts below 0.05 bpp.

    The stream announces one picture per group, so its parameter sets have no lists of references. Quantisation
    differs a little.
    """

    name = "vvc-intra.short"

    def options(self, quality: object) -> list[str]:
        """See the base class."""
        return [*super().options(quality), "-vvenc-params", "gopsize=1:intraperiod=1"]


def _programs() -> Iterator[str]:
    if program := find_program("ffmpeg"):
        yield program
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        try:
            yield imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:  # the package has no binary for this platform
            return


@cache
def _has(program: str, kind: str, name: str) -> bool:
    """Whether ffmpeg lists an encoder or decoder: flags, its name, a description."""
    said = run_program([program, "-hide_banner", "-loglevel", "error", f"-{kind}"], timeout=60, check=False)
    return re.search(rf"^ *[A-Z.]+ +{re.escape(name)} ", said, flags=re.MULTILINE) is not None
