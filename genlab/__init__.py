"""genlab: a lab for classical deep generative models on its own fused kernels."""

__version__ = "0.1.0"
