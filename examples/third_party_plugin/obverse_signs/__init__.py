"""A third-party plugin of Obverse: a quantizer without a codebook, and a codec that uses it."""
