"""Chameleon's image tokenizer (arXiv:2405.09818) and Lumina-mGPT as its prior (arXiv:2408.02657)."""
