"""Cosmos tokenizers and autoregressive world models (arXiv:2501.03575)."""
