"""Parts of a latent's page."""
