"""Input and output scores: the plant writes "oui", and plain hooks give the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from saif_core.errors import UnknownLatentError
from saif_core.explaining.latent_scores import (
    N_PROMOTED,
    READS_FROM,
    WRITES_FROM,
    input_score,
    output_scores,
    promoted_token_ids,
    verdict,
)
from saif_core.models import unembedding
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from tests import tiny

PROMPT = "In my experience,"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


def plain_probabilities(folder: Path, layer: int, added: Tensor) -> Tensor:
    """Next-token probabilities after PROMPT by a plain hook that adds at the last token."""
    hf_model: Any = AutoModelForCausalLM.from_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        resid = (output[0] if isinstance(output, tuple) else output).clone()
        resid[:, -1] += added
        return (resid, *output[1:]) if isinstance(output, tuple) else resid

    tiny.blocks_of(hf_model)[layer].register_forward_hook(add)
    with torch.no_grad():
        inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
        probabilities: Tensor = hf_model(**inputs).logits[0, -1].softmax(-1)
    return probabilities


def plain_standing(probabilities: Tensor, tokens: list[int]) -> float:
    order = probabilities.argsort(descending=True).tolist()
    rank = min(order.index(token) for token in tokens)
    best = max(float(probabilities[token]) for token in tokens)
    return (1 - rank / len(order)) * best


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("layer", [0, 1])
def test_output_scores_equal_those_of_plain_hooks(
    family: tiny.Family, layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save_model(tmp_path / "model", family=family, add_bos=family == "gemma2")
    sae_folder = tiny.save_sae(tmp_path / "sae", folder, layer=layer)
    model = load_model(folder, id=str(folder))
    sae = load_sae_folder(sae_folder, id="sae", model=model)
    latents = [7, 0, 40, 12, 63]
    # Batches of two latents, the last one of one.
    monkeypatch.setattr(unembedding, "MOST_LOGIT_BYTES", 2 * 4 * model.d_vocab)
    maxima = [3.0, 1.5, 8.0, 0.5, 0.0]
    scores = output_scores(model, sae, latents, maxima)

    before = plain_probabilities(folder, layer, torch.zeros(tiny.D_MODEL))
    for latent, largest, score in zip(latents, maxima, scores.tolist(), strict=True):
        after = plain_probabilities(folder, layer, 2 * largest * sae.W_dec[latent])
        promoted = model.unembed_directions(sae.W_dec[latent][None])[0].topk(20).indices.tolist()
        expected = plain_standing(after, promoted) - plain_standing(before, promoted)
        assert score == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_planted_latent_writes_its_word(model: LoadedModel, sae: LoadedSae) -> None:
    (score,) = output_scores(model, sae, [tiny.PLANTED_LATENT], [20.0]).tolist()
    assert score > 0.8
    promoted = promoted_token_ids(model, sae, [tiny.PLANTED_LATENT])
    assert promoted.shape == (1, N_PROMOTED)
    assert model.token_text(int(promoted[0, 0])) == f" {tiny.PLANTED_ANSWER}"


def test_no_latents_have_no_scores(model: LoadedModel, sae: LoadedSae) -> None:
    assert output_scores(model, sae, [], []).shape == (0,)


def test_a_missing_latent_is_refused(model: LoadedModel, sae: LoadedSae) -> None:
    with pytest.raises(UnknownLatentError, match="Latent 64"):
        output_scores(model, sae, [0, 64], [1.0, 1.0])


def test_a_latent_that_never_fired_writes_nothing(model: LoadedModel, sae: LoadedSae) -> None:
    assert output_scores(model, sae, [3], [0.0]).tolist() == pytest.approx([0.0], abs=1e-6)


def test_the_model_is_left_as_it_was(model: LoadedModel, sae: LoadedSae) -> None:
    ids = torch.tensor([model.encode_prompt("The old cat sees", chat=False)])
    before = model.logits(ids)
    output_scores(model, sae, [7], [20.0])
    torch.testing.assert_close(model.logits(ids), before, rtol=0, atol=0)


def test_input_score_counts_every_example() -> None:
    assert input_score([5, 5, 9, 2], {5, 2, 77}) == 0.75
    assert input_score([1, 3], [5]) == 0
    assert input_score([], [5]) is None


@pytest.mark.parametrize(
    ("reads", "writes", "expected"),
    [
        (READS_FROM, WRITES_FROM, "both"),
        (READS_FROM, WRITES_FROM - 1e-6, "reads"),
        (READS_FROM - 1e-6, WRITES_FROM, "writes"),
        (0.0, -0.5, "neither"),
    ],
)
def test_verdict_at_the_thresholds(reads: float, writes: float, expected: str) -> None:
    assert verdict(reads, writes) == expected
