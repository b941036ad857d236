"""Prompt pairs → latent activations and residual streams at the reading position."""
