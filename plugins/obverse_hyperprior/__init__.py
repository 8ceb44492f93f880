"""Convolutional transforms with factorized, hyper- and autoregressive priors: bmshj2018, mbt2018 and cheng2020."""
