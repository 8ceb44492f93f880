"""Hierarchical VAEs with quantized latents: QRes-VAE, QARV, the intra codec of DHVC, and DHIC."""
