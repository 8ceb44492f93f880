"""Components of LlamaGen."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_CODECS = {
    "llamagen-vq16": "tokenizer at stride 16, 14 bits per token",
    "llamagen-vq8": "tokenizer at stride 8, 14 bits per token",
    "llamagen-vq16-t2i": "tokenizer at stride 16 of the text models, 14 bits per token",
    "llamagen-b-256": "GPT-B, 111 million parameters, windows of 256x256 pixels",
    "llamagen-b-384": "GPT-B, 111 million parameters, windows of 384x384 pixels",
    "llamagen-l-256": "GPT-L, 343 million parameters, windows of 256x256 pixels",
    "llamagen-l-384": "GPT-L, 343 million parameters, windows of 384x384 pixels",
    "llamagen-xl-384": "GPT-XL, 775 million parameters, windows of 384x384 pixels",
    "llamagen-xxl-384": "GPT-XXL, 1.4 billion parameters, windows of 384x384 pixels",
    "llamagen-3b-384": "GPT-3B, 3.1 billion parameters, windows of 384x384 pixels",
}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "llamagen", "obverse.vq:VQAutoencoder", "convolutional autoencoder of the tokenizers"),
        Component("quantizer", "llamagen", "obverse.vq:VectorQuantizer", "nearest code, on the unit sphere"),
        Component("prior", "llamagen", "obverse.next_token:LlamaPrior", "class-conditional next-token transformer"),
        Component("checkpoint", "llamagen-vq", "obverse_llamagen.checkpoints:TokenizerFormat", "official tokenizers"),
        Component("checkpoint", "llamagen-gpt", "obverse_llamagen.checkpoints:PriorFormat", "official priors"),
        *(
            Component("codec", name, f"obverse_llamagen:configs/{name}.yaml", summary, licence="MIT")
            for name, summary in _CODECS.items()
        ),
    ]
