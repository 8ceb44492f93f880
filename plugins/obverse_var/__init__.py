"""VAR: next-scale prediction over a multi-scale tokenizer (arXiv:2404.02905)."""
