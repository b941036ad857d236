"""What latents mean: a second flow, from documents to profiles, and one method in each file."""
