"""Metrics of pictures and of sets of pictures, each a component of kind `metric`.

fidelity       PSNR, MS-SSIM
lpips          LPIPS with three trunks
niqe           NIQE
clip_iqa       CLIP-IQA, on the network of `clip`
frechet        FID, rFID, sFID and patch FID, on the features of `inception`
scores         Inception score, precision and recall, on the same features
tokens         codebook usage and perplexity, from counts of tokens
networks       what metrics with a network share
weights        the files of weights that metrics need, and where they lie
"""
