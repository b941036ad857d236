"""Evaluators: whether a text follows its instruction, one file each."""

from saif_core.registry import import_plugins

import_plugins(__name__, __path__)
