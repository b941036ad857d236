"""What to steer with: latents ranked and chosen, vectors made."""
