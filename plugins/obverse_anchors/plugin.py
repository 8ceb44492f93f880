"""Anchors of evaluations."""

from __future__ import annotations

from obverse_registry import Component, hookimpl


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("anchor", "jpeg", "obverse_anchors.pillow:Jpeg", "JPEG by libjpeg-turbo, progressive, 4:2:0",
                  licence="IJG AND BSD-3-Clause AND Zlib"),
        Component("anchor", "jpeg2000", "obverse_anchors.pillow:Jpeg2000", "JPEG 2000 by OpenJPEG, 9/7 wavelet",
                  licence="BSD-2-Clause"),
        Component("anchor", "webp", "obverse_anchors.pillow:WebP", "WebP by libwebp, method 6",
                  licence="BSD-3-Clause"),
        Component("anchor", "avif", "obverse_anchors.pillow:Avif", "AVIF by libavif and libaom, 4:2:0",
                  licence="BSD-2-Clause"),
        Component("anchor", "jpegxl", "obverse_anchors.jpegxl:JpegXl", "JPEG XL by libjxl; needs imagecodecs",
                  licence="BSD-3-Clause"),
        Component("anchor", "hevc-intra", "obverse_anchors.ffmpeg:HevcIntra",
                  "HEVC by x265, one intra frame; needs ffmpeg", licence="GPL-2.0-or-later"),
        Component("anchor", "vvc-intra", "obverse_anchors.ffmpeg:VvcIntra",
                  "VVC by vvenc, one intra frame; needs ffmpeg", licence="BSD-3-Clause-Clear"),
        Component("anchor", "vvc-intra.short", "obverse_anchors.ffmpeg:VvcIntraShort",
                  "the same with small parameter sets, for very low rates", licence="BSD-3-Clause-Clear"),
        Component("anchor", "bpg", "obverse_anchors.bpg:Bpg", "BPG by libbpg; needs bpgenc and bpgdec",
                  licence="GPL-2.0-or-later"),
        Component("anchor", "vtm", "obverse_anchors.vtm:Vtm", "VVC by its reference software; needs VTM",
                  licence="BSD-3-Clause"),
    ]  # fmt: skip
