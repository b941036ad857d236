"""Key flows in Chromium, against a real server."""
