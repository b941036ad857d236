"""Latent selectors: one score per latent, one file each; docs/extending.md tells how to add one."""

from saif_core.registry import import_plugins

import_plugins(__name__, __path__)
