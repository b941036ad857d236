"""Texts → judgements."""
