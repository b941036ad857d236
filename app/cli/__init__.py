"""The command ``saif``."""
