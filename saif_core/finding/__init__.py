"""What to steer with: latents ranked, and sources that make edits from an instruction's pairs."""
