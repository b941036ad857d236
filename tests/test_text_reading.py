"""Latents of a text against a plain encoding of its residual stream."""

from pathlib import Path

import pytest
import torch

from saif_core.errors import PromptPairError
from saif_core.explaining.text_reading import MAX_TOKENS, read_activations, read_text
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder

TEXT = "the old cat sees a big dog in one house"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id=str(tiny_sae_dir), model=model)


def plain(model: LoadedModel, sae: LoadedSae) -> torch.Tensor:
    ids = torch.tensor([model.encode_prompt(TEXT, chat=False)])
    return sae.encode(model.run_sequences(ids, [ids.shape[1]], [sae.layer])[sae.layer][0])


def test_every_token_lists_its_latents_best_first(model: LoadedModel, sae: LoadedSae) -> None:
    expected = plain(model, sae)
    reading = read_text(model, sae, TEXT, chat=False)
    assert "".join(reading.tokens) == TEXT
    for row, listed in zip(expected, reading.latents, strict=True):
        best = row.topk(len(listed))
        assert [value for _, value in listed] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert all(row[latent] == pytest.approx(value, rel=1e-4) for latent, value in listed)
    for latent, value, at in reading.maxima:
        assert at > 0
        assert value == pytest.approx(float(expected[1:, latent].max()), rel=1e-4)
        assert int(expected[1:, latent].argmax()) == at - 1


def test_one_latent_is_read_on_every_token(model: LoadedModel, sae: LoadedSae) -> None:
    tokens, activations = read_activations(model, sae, 5, TEXT, chat=False)
    assert "".join(tokens) == TEXT
    assert activations == pytest.approx(plain(model, sae)[:, 5].tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("text", ["", "cat " * (MAX_TOKENS + 1)])
def test_texts_without_or_with_too_many_tokens_are_refused(
    model: LoadedModel, sae: LoadedSae, text: str
) -> None:
    with pytest.raises(PromptPairError):
        read_text(model, sae, text, chat=False)
    with pytest.raises(PromptPairError):
        read_activations(model, sae, 0, text, chat=False)
