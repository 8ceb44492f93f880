"""Components of the models of CompressAI's zoo."""

from __future__ import annotations

from obverse_registry import Component, hookimpl

_FAMILIES = {
    "bmshj2018-factorized": "density per channel, eight rates",
    "bmshj2018-hyperprior": "scales from a hyperprior, eight rates",
    "mbt2018-mean": "means and scales from a hyperprior, eight rates",
    "mbt2018": "hyperprior and autoregressive context, eight rates",
    "cheng2020-anchor": "residual blocks, hyperprior and autoregressive context, six rates",
    "cheng2020-attn": "the same with attention, six rates",
}
_METRICS = {"": "trained for MSE", "-ms-ssim": "trained for MS-SSIM"}


@hookimpl
def obverse_components() -> list[Component]:
    """Records only; targets are imported on first use."""
    return [
        Component("encoder", "bmshj2018-factorized", "obverse_hyperprior.encoders:FactorizedAutoencoder",
                  "convolutions with GDN, no hyper-latents"),
        Component("encoder", "bmshj2018-hyperprior", "obverse_hyperprior.encoders:ScaleAutoencoder",
                  "convolutions with GDN, hyper-latents from magnitudes"),
        Component("encoder", "mbt2018", "obverse_hyperprior.encoders:MeanScaleAutoencoder",
                  "convolutions with GDN and hyper-latents"),
        Component("encoder", "cheng2020", "obverse_hyperprior.encoders:ResidualAutoencoder",
                  "residual blocks, optional attention, hyper-latents"),
        Component("prior", "bmshj2018-factorized", "obverse.hyperprior:FactorizedPrior",
                  "density per channel"),
        Component("prior", "bmshj2018-hyperprior", "obverse_hyperprior.priors:ScaleHyperprior",
                  "scales from hyper-latents"),
        Component("prior", "mbt2018-mean", "obverse_hyperprior.priors:MeanScaleHyperprior",
                  "means and scales from hyper-latents"),
        Component("prior", "mbt2018", "obverse_hyperprior.priors:JointPrior",
                  "means and scales from hyper-latents and causal context"),
        Component("prior", "cheng2020", "obverse_hyperprior.priors:ResidualPrior",
                  "the same with sub-pixel convolutions"),
        Component("checkpoint", "compressai", "obverse_hyperprior.checkpoints:ModelFormat",
                  "models of CompressAI's zoo"),
        Component("checkpoint", "compressai-vbr", "obverse_hyperprior.checkpoints:VariableRateFormat",
                  "CompressAI's variable-rate models, which are refused"),
        *(
            Component("codec", f"{name}{suffix}", f"obverse_hyperprior:configs/{name}{suffix}.yaml",
                      f"{summary}, {trained}", licence="BSD-3-Clause-Clear")
            for name, summary in _FAMILIES.items()
            for suffix, trained in _METRICS.items()
        ),
    ]  # fmt: skip
