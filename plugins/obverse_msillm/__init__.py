"""MS-ILLM and its baselines without a GAN (arXiv:2301.11189), of NeuralCompression."""
