"""HiFiC: High-fidelity generative image compression (arXiv:2006.09965), in the PyTorch port by J. Tan."""
