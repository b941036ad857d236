"""Steering methods: how the steering vector edits the residual stream, one file each."""

from saif_core.registry import import_plugins

import_plugins(__name__, __path__)
