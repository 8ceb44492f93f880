"""ELIC (arXiv:2203.10886) as its public reimplementations have it, and an architecture of its kind that is sampled."""
