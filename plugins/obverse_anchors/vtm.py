"""VVC by its reference software VTM, where it is built."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from obverse.evaluation.programs import ProgramError, find_program, first_line, run_program
from obverse_anchors.options import CHROMA_FORMATS, check_choice
from obverse_anchors.raw_video import RawVideoAnchor
from obverse_anchors.ycbcr import CONVERSION

VARIABLE = "VTM_HOME"
"""Environment variable with the folder of VTM, which has `bin` and `cfg`."""

SOURCE = "https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM"


class Vtm(RawVideoAnchor):
    """VTM, one intra frame in 10 bits, 4:4:4 as papers have it. Slow: minutes per image.

    Args:
        qualities: QP, 63 to 0, worst first.
        home: folder of VTM with `bin/EncoderAppStatic`, `bin/DecoderAppStatic` and `cfg/encoder_intra_vtm.cfg`; by
            default that of the environment variable VTM_HOME.
        encoder, decoder, config: in place of those.
        chroma_format: 4:4:4 or 4:2:0.
        timeout: seconds that each program may take.
    """

    name = "vtm"
    licence = "BSD-3-Clause"
    suffix = ".vvc"
    lowest, highest = 0, 63
    defaults = (55, 52, 47, 42, 37, 32, 27, 22)
    smallest = 8

    def __init__(
        self,
        *,
        qualities: Sequence[float] | None = None,
        home: str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        config: str | None = None,
        chroma_format: str = "4:4:4",
        timeout: float = 4 * 3600.0,
    ) -> None:
        super().__init__(
            qualities=qualities,
            chroma_format=check_choice(self.name, "chroma_format", chroma_format, CHROMA_FORMATS),
            timeout=timeout,
        )
        folder = Path(home or os.environ.get(VARIABLE, "")).expanduser()
        self.encoder = encoder or _built(folder, "EncoderApp")
        self.decoder = decoder or _built(folder, "DecoderApp")
        self.config = Path(config) if config else folder / "cfg" / "encoder_intra_vtm.cfg"

    def missing(self) -> str | None:
        """Whether a program or the encoder's configuration is not there."""
        for program in (self.encoder, self.decoder):
            if find_program(program) is None:
                return f"vtm: program {program!r} is not found; build VTM ({SOURCE}) and name its folder in {VARIABLE}"
        if not self.config.is_file():
            return f"vtm: the encoder's configuration {str(self.config)!r} does not exist"
        return None

    def settings(self) -> Mapping[str, Any]:
        """See the base class. The first line that the encoder says names its version."""
        said = run_program([self.encoder, "--help"], timeout=60, check=False)
        command = self.encode_command("IN.yuv", "OUT.vvc", "W", "H", "QP")
        command = ["EncoderApp", "-c", self.config.name, *command[3:]]
        try:
            digest = hashlib.sha256(self.config.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise ProgramError(f"vtm: {str(self.config)!r} cannot be read: {error.strerror}") from error
        return {
            "implementation": first_line(said),
            "command": shlex.join(command),
            "configuration": digest,
            "chroma_format": self.chroma_format,
            "bit_depth": self.bits,
            "colour_conversion": CONVERSION,
        }

    def encode_command(self, source: str, stream: str, width: object, height: object, quality: object) -> list[str]:
        """See the base class."""
        chroma = self.chroma_format.replace(":", "")
        return [
            self.encoder, "-c", str(self.config), "-i", source, "-b", stream, "-o", os.devnull,
            "-q", str(quality), "-wdt", str(width), "-hgt", str(height), "-fr", "1", "-f", "1",
            f"--InputChromaFormat={chroma}", f"--InputBitDepth={self.bits}", f"--InternalBitDepth={self.bits}",
            f"--OutputBitDepth={self.bits}", "--ConformanceWindowMode=1",
        ]  # fmt: skip

    def decode_command(self, stream: str, target: str) -> list[str]:
        """See the base class."""
        return [self.decoder, "-b", stream, "-o", target, "-d", str(self.bits)]


def _built(folder: Path, program: str) -> str:
    """What VTM's build makes on Linux, or elsewhere."""
    candidates = [str(folder / "bin" / f"{program}{ending}") for ending in ("Static", "")]
    return next((path for path in candidates if find_program(path)), candidates[0])
