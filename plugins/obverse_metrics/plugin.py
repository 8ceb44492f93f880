"""The metrics."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_INCEPTION_LICENCE = "Apache-2.0"


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        _metric("psnr-rgb", "fidelity:PSNR", "peak signal-to-noise ratio over 8-bit RGB, in dB"),
        _metric("ms-ssim-rgb", "fidelity:MSSSIM", "multi-scale structural similarity, linear", "MIT"),
        _metric("lpips-alex", "lpips:LPIPSAlex", "learned perceptual distance, AlexNet", "BSD-2-Clause"),
        _metric("lpips-vgg", "lpips:LPIPSVGG", "learned perceptual distance, VGG-16", "BSD-2-Clause"),
        _metric("lpips-squeeze", "lpips:LPIPSSqueeze", "learned perceptual distance, SqueezeNet", "BSD-2-Clause"),
        _metric("niqe", "niqe:NIQE", "natural image quality evaluator, without reference"),
        _metric("clip-iqa", "clip_iqa:CLIPIQA", "probability of a good photo, without reference", "MIT"),
        _metric("fid", "frechet:FID", "Fréchet Inception distance", _INCEPTION_LICENCE),
        _metric("rfid", "frechet:ReconstructionFID", "FID between originals and decoded pictures", _INCEPTION_LICENCE),
        _metric("sfid", "frechet:SpatialFID", "FID on features with positions", _INCEPTION_LICENCE),
        _metric("patch-fid", "frechet:PatchFID", "FID between patches of 256x256 pixels", _INCEPTION_LICENCE),
        _metric("is", "scores:InceptionScore", "Inception score, without reference", _INCEPTION_LICENCE),
        _metric("precision", "scores:Precision", "decoded pictures that lie among the originals", _INCEPTION_LICENCE),
        _metric("recall", "scores:Recall", "originals that lie among the decoded pictures", _INCEPTION_LICENCE),
        _metric("codebook-usage", "tokens:CodebookUsage", "share of codes that occur in a set"),
        _metric("codebook-perplexity", "tokens:CodebookPerplexity", "2 to the entropy of the codes of a set"),
    ]


def _metric(name: str, target: str, summary: str, licence: str = "") -> Component:
    return Component("metric", name, f"obverse_metrics.{target}", summary, licence=licence)
