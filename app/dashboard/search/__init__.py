"""The ways of the Search page."""
