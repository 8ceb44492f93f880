"""BPG by its own programs, where they are installed."""

from __future__ import annotations

from collections.abc import Sequence

from obverse.evaluation.command import CommandAnchor
from obverse_anchors.options import CHROMA_FORMATS, check_choice, check_level

ENCODERS = ("x265", "jctvc")


class Bpg(CommandAnchor):
    """BPG of https://bellard.org/bpg: HEVC intra frames in a small container. It converts colours itself.

    Args:
        qualities: QP, 51 to 0, worst first.
        chroma_format: 4:4:4, as papers have it, or 4:2:0.
        bits: 8 to 12 per sample.
        encoder: x265 or jctvc, the reference software; as the program was built.
        timeout: seconds that each program may take.
    """

    def __init__(
        self,
        *,
        qualities: Sequence[float] = (51, 49, 47, 45, 42, 39, 36, 33, 30, 26, 22),
        chroma_format: str = "4:4:4",
        bits: int = 8,
        encoder: str = "x265",
        timeout: float = 3600.0,
    ) -> None:
        for quality in qualities:
            check_level("bpg", "a quality", quality, 0, 51)  # type: ignore[arg-type]
        self.chroma_format = check_choice("bpg", "chroma_format", chroma_format, CHROMA_FORMATS)
        self.bits = check_level("bpg", "bits", bits, 8, 12)
        check_choice("bpg", "encoder", encoder, ENCODERS)
        chroma = chroma_format.replace(":", "")
        super().__init__(
            name="bpg",
            encode=f"bpgenc -q {{quality}} -f {chroma} -b {bits} -e {encoder} -c ycbcr -o {{bitstream}} {{input}}",
            decode="bpgdec -o {output} {bitstream}",
            qualities=qualities,
            version="bpgenc -h",
            bitstream_suffix=".bpg",
            timeout=timeout,
            notes=f"{chroma_format}, {bits} bits, BT.601 inside the encoder; container counted",
        )

    def missing(self) -> str | None:
        """Whether a program is not there, and where it comes from."""
        reason = super().missing()
        return reason and f"{reason}; bpgenc and bpgdec are built from https://bellard.org/bpg"
