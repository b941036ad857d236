"""What a latent means: tokens its decoder direction promotes, and its nearest neighbours."""
