"""How what was found edits the residual stream."""
