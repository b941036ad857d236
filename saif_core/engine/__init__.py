"""One worker that owns the model, and everything that it can be asked."""
