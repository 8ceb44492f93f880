"""Components of Chameleon and Lumina-mGPT."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

LICENCE = "Chameleon Research License"
_TOKENIZER = "https://github.com/facebookresearch/chameleon (tokenizer/vqgan.ckpt, on request)"


def _lumina(size: int) -> Component:
    """The codec of a 7B model for images of `size` pixels a side."""
    return Component(
        kind="codec",
        name=f"lumina-7b-{size}",
        target=f"obverse_lumina:configs/lumina-7b-{size}.yaml",
        summary=f"Chameleon's image tokens, Lumina-mGPT 7B in windows of {size} pixels",
        licence=LICENCE,
        details={"source": f"https://huggingface.co/Alpha-VLLM/Lumina-mGPT-7B-{size} and {_TOKENIZER}"},
    )


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "chameleon", "obverse.vq:VQAutoencoder", "autoencoder of Chameleon's image tokenizer"),
        Component("quantizer", "chameleon", "obverse.vq:VectorQuantizer", "nearest code of Chameleon"),
        Component("prior", "lumina", "obverse_lumina.prior:LuminaPrior", "image tokens of Lumina-mGPT, without text"),
        Component("checkpoint", "lumina", "obverse_lumina.checkpoints:LuminaTransformer",
                  "Lumina-mGPT as transformers saves it"),
        Component("codec", "chameleon-vq", "obverse_lumina:configs/chameleon-vq.yaml",
                  "tokens at stride 16, 8192 codes, Chameleon", licence=LICENCE, details={"source": _TOKENIZER}),
        *(_lumina(size) for size in (512, 768, 1024)),
    ]  # fmt: skip
