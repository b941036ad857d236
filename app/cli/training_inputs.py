"""What ``saif train-sae`` is given: sources, layers and shapes, checked before hours of work."""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from saif_core.errors import SaifError
from saif_core.models.default_model import DEFAULT_MODEL

if TYPE_CHECKING:  # these import torch
    from saif_core.catalog import Catalog
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.saes.training import TextSource

DEFAULT_LAYERS = (14, 22, 29)


def parse_source(text: str) -> "TextSource":
    """The source written as PATH or PATH:SHARE.

    Raises:
        SaifError: there is no such file, or the share is not above 0.
    """
    from saif_core.saes.training import TextSource

    name, colon, share_text = text.rpartition(":")
    if not colon or Path(text).exists():
        name, share_text = text, "1"
    try:
        share = float(share_text)
    except ValueError:
        name, share = text, 1.0
    if not Path(name).is_file():
        raise SaifError(f"--source {text!r} names no file; give PATH or PATH:SHARE.")
    if not (share > 0 and math.isfinite(share)):
        raise SaifError(f"--source {text!r} has the share {share:g}; give one above 0.")
    return TextSource(Path(name).absolute(), share)


def check_sources(sources: "Sequence[TextSource]") -> None:
    """Read each source's first lines, so that a bad file is refused before anything long starts.

    Raises:
        SaifError: a file was given twice, or is not JSONL with text.
    """
    from saif_core.saes.training import read_documents

    paths = [source.path for source in sources]
    if len(set(paths)) < len(paths):
        raise SaifError("A --source was given twice; give each file once, with its share.")
    for path in paths:
        try:
            documents = list(islice(read_documents(path, held_out=False), 20))
            bad = [item for item in documents if not ("text" in item or "messages" in item)]
        except Exception as error:
            raise SaifError(
                f"--source {path.name} cannot be read ({type(error).__name__}); give JSONL, one "
                'object with "text" or "messages" a line, plain or compressed as .zst.'
            ) from error
        if bad or not documents:
            raise SaifError(
                f"--source {path.name} has no text to train on; give JSONL, one object with "
                '"text" or "messages" a line.'
            )


def parse_layers(text: str, model_id: str) -> tuple[int, ...]:
    """Layers written as N,…; when empty those of the shipped SAEs, for the default model.

    Raises:
        SaifError: the text is not of that form.
    """
    if not text:
        return DEFAULT_LAYERS if model_id == DEFAULT_MODEL else ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise SaifError(f"--layers is {text!r}; give layer numbers as in 14,22,29.")
    return tuple(sorted({int(part) for part in parts}))


def check_layers(layers: Sequence[int], model: "LoadedModel") -> None:
    """Check that the model has the layers.

    Raises:
        SaifError: it does not, or there are none.
    """
    from saif_core.models.hook_points import hook_point_name, parse_hook_point

    if not layers:
        raise SaifError(
            f"Model {model.id!r} has layers 0 to {model.n_layers - 1}; choose some with --layers."
        )
    for layer in layers:
        parse_hook_point(hook_point_name(layer), model.n_layers)


def shape_like(
    catalog: "Catalog", model_id: str, sae: str, layers: str
) -> tuple[int, tuple[int, ...]]:
    """Number of latents and layers of a known SAE; ``layers`` given in so many words come first.

    Raises:
        SaifError: the SAE, its layer or its size is not known.
    """
    info = next((info for info in catalog.saes(model_id) if info.id == sae), None)
    if info is None or info.layer is None or not info.d_sae:
        raise SaifError(
            f"The layer and size of SAE {sae!r} are not known; give --layers and --d-sae."
        )
    return info.d_sae, parse_layers(layers, "") or (info.layer,)
