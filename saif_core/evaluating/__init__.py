"""Judgements → rates with intervals, with controls and tests."""
