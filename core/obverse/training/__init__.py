"""Training of tokenizers, priors and codecs: `obverse train CONFIG`."""
