"""Components of the bundled pocket codecs."""

from __future__ import annotations

from obverse_registry import Component, hookimpl


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "pocket-conv", "obverse_pocket.autoencoders:ConvAutoencoder",
                  "convolutional autoencoder with one latent grid"),
        Component("encoder", "pocket-hyper", "obverse_pocket.autoencoders:HyperAutoencoder",
                  "convolutional autoencoder with hyper-latents and a gain per quality"),
        Component("quantizer", "unit-vector", "obverse_pocket.quantizers:UnitVectorQuantizer",
                  "nearest code on the unit sphere"),
        Component("prior", "pocket-llama", "obverse_pocket.llama:LlamaPrior",
                  "next-token transformer over windows"),
        Component("prior", "multi-rate-groups", "obverse_pocket.hyperprior:MultiRatePrior",
                  "hyperprior with channel groups over a checkerboard, at several rates"),
        Component("codec", "pocket-vq", "obverse_pocket:configs/pocket-vq.yaml",
                  "tokens at stride 16, about 0.05 bpp", licence="Apache-2.0"),
        Component("codec", "pocket-hyper", "obverse_pocket:configs/pocket-hyper.yaml",
                  "hyperprior with channel groups, eight rates", licence="Apache-2.0"),
    ]  # fmt: skip
