"""Ways to make what is steered with, one file each."""
