"""The language model: its tokens, its residual stream, and where both are read and written."""
