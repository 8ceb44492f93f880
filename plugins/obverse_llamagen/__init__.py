"""LlamaGen (arXiv:2406.06525): a tokenizer with unit-length codes and class-conditional next-token priors."""
