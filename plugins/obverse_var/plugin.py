"""Components of VAR."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_CODECS = {
    "var-vae": "multi-scale tokenizer, 680 tokens of 12 bits for tiles of 256x256 pixels",
    "var-d16": "16 layers, 310 million parameters, tiles of 256x256 pixels",
    "var-d20": "20 layers, 600 million parameters, tiles of 256x256 pixels",
    "var-d24": "24 layers, 1 billion parameters, tiles of 256x256 pixels",
    "var-d30": "30 layers, 2 billion parameters, tiles of 256x256 pixels",
    "var-d36": "36 layers, 2.4 billion parameters, tiles of 512x512 pixels",
}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "var", "obverse_var.encoders:TileAutoencoder", "autoencoder for tiles of one size"),
        Component("quantizer", "var", "obverse_var.quantizers:MultiScaleQuantizer", "token maps of growing size"),
        Component("prior", "var", "obverse.next_scale:NextScalePrior", "class-conditional next-scale transformer"),
        Component("checkpoint", "var-tokenizer", "obverse_var.checkpoints:TokenizerFormat", "official tokenizer"),
        Component("checkpoint", "var-transformer", "obverse_var.checkpoints:TransformerFormat", "official priors"),
        Component("checkpoint", "var-trainer", "obverse_var.checkpoints:TrainerFormat", "both from one training run"),
        *(
            Component("codec", name, f"obverse_var:configs/{name}.yaml", summary, licence="MIT")
            for name, summary in _CODECS.items()
        ),
    ]
