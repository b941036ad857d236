"""Sources: what is written after which blocks, one file each; docs/extending.md tells how."""

from saif_core.registry import import_plugins

import_plugins(__name__, __path__)
