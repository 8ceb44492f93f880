"""Components of VQGAN."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_SOURCE = {"source": "https://github.com/CompVis/taming-transformers#overview-of-pretrained-models"}
_CODECS = {
    "vqgan-f16-1024": "tokens at stride 16, 1024 codes, ImageNet",
    "vqgan-f16-16384": "tokens at stride 16, 16384 codes, ImageNet",
    "vqgan-f8-256": "tokens at stride 8, 256 codes, OpenImages",
    "vqgan-f8-16384": "tokens at stride 8, 16384 codes, OpenImages",
    "vqgan-gumbel-f8": "tokens at stride 8, 8192 Gumbel codes, OpenImages",
    "vqgan-coco": "tokens at stride 16, 8192 codes, COCO and OpenImages",
    "vqgan-ffhq": "minGPT prior for faces, stride 16, FFHQ",
    "vqgan-celebahq": "minGPT prior for faces, stride 16, CelebA-HQ",
    "vqgan-cin": "minGPT prior with 1000 classes, stride 16, ImageNet",
}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "vqgan", "obverse.vq:VQAutoencoder", "autoencoder of VQGAN"),
        Component("quantizer", "vqgan", "obverse.vq:VectorQuantizer", "nearest code of VQGAN"),
        Component("quantizer", "vqgan-gumbel", "obverse_vqgan.quantizers:GumbelQuantizer",
                  "most probable code of Gumbel VQGAN"),
        Component("prior", "vqgan-gpt", "obverse.minimal_gpt:MinimalGPT",
                  "minGPT over windows, with or without classes"),
        Component("checkpoint", "vqgan-gpt", "obverse_vqgan.checkpoints:TransformerFile",
                  "minGPT of taming-transformers, by itself"),
        Component("checkpoint", "vqgan-net2net", "obverse_vqgan.checkpoints:Net2NetFile",
                  "VQGAN and minGPT of taming-transformers in one file"),
        *(Component("codec", name, f"obverse_vqgan:configs/{name}.yaml", summary, licence="MIT", details=_SOURCE)
          for name, summary in _CODECS.items()),
    ]  # fmt: skip
