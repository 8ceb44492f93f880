"""Classical image codecs to compare with: JPEG, JPEG 2000, WebP, JPEG XL, AVIF, HEVC and VVC intra, BPG, VTM."""
