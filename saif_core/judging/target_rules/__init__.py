"""Target rules: a model's own answer → one that says the same and follows, one file each.

What is trained needs answers to aim at. A small model's prompted answers seldom follow a format; a
rule makes them of what it answers anyway, so that their content is its own.
"""

from saif_core.registry import import_plugins

import_plugins(__name__, __path__)
