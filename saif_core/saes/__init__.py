"""Sparse autoencoders: residual stream to latent activations and back."""
