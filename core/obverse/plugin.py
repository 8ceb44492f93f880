"""Components of the core."""

from __future__ import annotations

from obverse_registry import Component, hookimpl


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("coder", "range", "obverse.coders.range:RangeCoder", "range coder (constriction)"),
        Component("coder", "ideal", "obverse.coders.ideal:IdealCoder", "counts -log2 p, writes nothing"),
        Component("coder", "raw", "obverse.coders.raw:RawCoder", "fixed-length codes"),
        Component("quantizer", "rounding", "obverse.scalar:RoundingQuantizer", "round(latent - mean)"),
        Component("prior", "uniform", "obverse.priors:UniformPrior", "every token equally probable"),
        Component(
            "checkpoint", "vqgan-tokenizer", "obverse.taming:TokenizerFile", "VQGAN tokenizers, also Chameleon's"
        ),
    ]
