"""Components of Cosmos."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_CODECS = {
    "cosmos-di8x8": "Cosmos-0.1-Tokenizer-DI8x8, stride 8",
    "cosmos-di16x16": "Cosmos-0.1-Tokenizer-DI16x16, stride 16",
    "cosmos1-di8x8-360p": "Cosmos-Tokenize1-DI8x8-360p, stride 8",
    "cosmos1-di16x16-360p": "Cosmos-Tokenize1-DI16x16-360p, stride 16",
    "cosmos-dv8x16x16": "Cosmos-1.0-Tokenizer-DV8x16x16, one frame, stride 16",
    "cosmos1-dv8x16x16-720p": "Cosmos-Tokenize1-DV8x16x16-720p, one frame, stride 16",
    "cosmos-predict1-4b": "Cosmos-Predict1-4B over tokens of the 720p video tokenizer",
    "cosmos-predict1-12b": "Cosmos-Predict1-12B over tokens of the 720p video tokenizer",
    "cosmos-predict1-5b": "Cosmos-Predict1-5B-Video2World over tokens of the 720p video tokenizer, no text",
    "cosmos-predict1-13b": "Cosmos-Predict1-13B-Video2World over tokens of the 720p video tokenizer, no text",
}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "cosmos-image", "obverse_cosmos.image:CosmosImageAutoencoder",
                  "convolutional autoencoder over Haar bands"),
        Component("encoder", "cosmos-video", "obverse_cosmos.video:CosmosVideoAutoencoder",
                  "causal video autoencoder over Haar bands, for one frame"),
        Component("quantizer", "fsq", "obverse_cosmos.fsq:FiniteScalarQuantizer",
                  "a few levels per channel"),
        Component("prior", "cosmos-ar", "obverse_cosmos.prior:CosmosPrior",
                  "next-token transformer with positions in time and space"),
        Component("checkpoint", "cosmos-image", "obverse_cosmos.checkpoints:ImageTokenizerFormat",
                  "image tokenizers of Cosmos, jit and pt"),
        Component("checkpoint", "cosmos-video", "obverse_cosmos.checkpoints:VideoTokenizerFormat",
                  "video tokenizers of Cosmos, jit and pt"),
        Component("checkpoint", "cosmos-ar", "obverse_cosmos.checkpoints:WorldModelFormat",
                  "autoregressive world models of Cosmos"),
        *(Component("codec", name, f"obverse_cosmos:configs/{name}.yaml", summary,
                    licence="LicenseRef-NVIDIA-Open-Model-License") for name, summary in _CODECS.items()),
    ]  # fmt: skip
