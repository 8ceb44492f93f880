"""VQGAN, Gumbel VQGAN and their next-token priors (taming-transformers, arXiv:2012.09841)."""
