"""Components of MS-ILLM."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_SOURCE = {"source": "https://github.com/facebookresearch/NeuralCompression/tree/main/projects/illm"}
_CODECS = {
    "msillm": "GAN for 0.035 to 0.9 bpp",
    "msillm-vlo": "GAN for 0.002 and 0.004 bpp",
    "noganms": "MS-ILLM's baseline without a GAN for 0.035 to 0.9 bpp",
}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "msillm", "obverse.hific:HificAutoencoder", "encoder and decoder of MS-ILLM"),
        Component("prior", "msillm", "obverse_msillm.priors:MeanScalePrior", "mean-scale hyperprior of MS-ILLM"),
        Component("checkpoint", "msillm", "obverse_msillm.checkpoints:MsillmFile",
                  "MS-ILLM and its baselines of NeuralCompression"),
        *(Component("codec", name, f"obverse_msillm:configs/{name}.yaml", summary, licence="CC-BY-NC-4.0",
                    details=_SOURCE)
          for name, summary in _CODECS.items()),
    ]  # fmt: skip
