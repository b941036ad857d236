"""Logits of a large vocabulary: never more of them in memory at once than there is room for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saif_core.explaining.latent_scores import output_scores
from saif_core.explaining.token_change import read_token_change
from saif_core.judging.perplexity import read_perplexities
from saif_core.models import unembedding
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes.card import measure_sae
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from saif_core.saes.logit_lens import promoted_tokens
from saif_core.writing.decoder import RowRequest, decode
from saif_core.writing.divergence import read_changes
from tests import tiny

ROWS = 4  # of logits, at once
Work = Callable[[LoadedModel, LoadedSae], Any]


class LargestLogits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the rows of the largest tensor whose last dimension is the vocabulary."""

    def __init__(self, d_vocab: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.d_vocab, self.n_rows = d_vocab, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            is_logits = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.d_vocab,)
            # The head's own weight, seen from the side, is none.
            if is_logits and tensor.shape != (tiny.D_MODEL, self.d_vocab):
                self.n_rows = max(self.n_rows, tensor.numel() // self.d_vocab)
        return made


@contextmanager
def counted(model: LoadedModel) -> Iterator[LargestLogits]:
    with LargestLogits(model.d_vocab) as largest:
        yield largest


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    loaded = load_model(tiny_model_dir, id=str(tiny_model_dir))
    loaded.hf_model.generation_config.eos_token_id = loaded.d_vocab - 1
    return loaded


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


def sequences(model: LoadedModel) -> list[list[int]]:
    return [model.encode_prompt(text, chat=False) for text in tiny.contents(12)]


def measure(model: LoadedModel, sae: LoadedSae) -> Any:
    return measure_sae(model, sae, {"english": sequences(model)})


def perplexities(model: LoadedModel, _sae: LoadedSae) -> Any:
    texts = sequences(model)
    return read_perplexities(model, [text[:2] for text in texts], [text[2:] for text in texts])


def token_change(model: LoadedModel, sae: LoadedSae) -> Any:
    return read_token_change(model, sae, tiny.PLANTED_LATENT, 10.0, sequences(model)).promoted


def divergence(model: LoadedModel, _sae: LoadedSae) -> Any:
    prompt = tuple(sequences(model)[0])
    (row,) = decode(model, [RowRequest(prompt, 12)])
    with torch.no_grad():
        return read_changes(model, [row], [prompt])


def promoted(model: LoadedModel, sae: LoadedSae) -> Any:
    return promoted_tokens(model, sae, range(12))


def scores(model: LoadedModel, sae: LoadedSae) -> Any:
    return output_scores(model, sae, list(range(12)), [1.0] * 12).tolist()


@pytest.mark.parametrize(
    "work", [measure, perplexities, token_change, divergence, promoted, scores]
)
def test_logits_are_read_in_parts_that_fit(
    model: LoadedModel, sae: LoadedSae, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    work(model, sae)  # what is only found out once may take what it needs
    with counted(model) as unbounded:
        whole = work(model, sae)
    monkeypatch.setattr(unembedding, "MOST_LOGIT_BYTES", ROWS * 4 * model.d_vocab)
    with counted(model) as bounded:
        parts = work(model, sae)
    assert unbounded.n_rows > ROWS
    assert 0 < bounded.n_rows <= ROWS
    assert _flat(parts) == pytest.approx(_flat(whole), rel=1e-4, abs=1e-5)


def test_sixty_four_megabytes_are_sixty_four_positions_of_gemma() -> None:
    shape = _Shape(262_144)
    assert [part.stop - part.start for part in shape.logit_parts(150)] == [64, 64, 22]
    assert next(iter(shape.logit_parts(150, copies=2))) == slice(0, 32)
    # One row at least, however large a vocabulary is.
    assert len(list(_Shape(1 << 30).logit_parts(3))) == 3


class _Shape(LoadedModel):
    def __init__(self, d_vocab: int) -> None:
        self.d_vocab = d_vocab


def test_a_head_in_half_precision_is_never_copied_whole(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = load_model(tiny_model_dir, id="half", dtype=torch.bfloat16)
    directions = torch.randn(3, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    whole = half.unembed_directions(directions)
    monkeypatch.setattr(unembedding, "MOST_LOGIT_BYTES", 10 * 4 * tiny.D_MODEL)
    with LargestLogits(tiny.D_MODEL) as largest:
        parts = half.unembed_directions(directions)
    assert largest.n_rows <= 10
    torch.testing.assert_close(parts, whole)


def _flat(found: Any) -> list[float]:
    """Every number in what was found, in order."""
    if isinstance(found, int | float):
        return [float(found)]
    if isinstance(found, str) or found is None:
        return []
    parts = found if isinstance(found, tuple | list) else vars(found).values()
    return [number for part in parts for number in _flat(part)]
