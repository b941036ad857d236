"""Texts: prompts answered by every arm in one batch."""
