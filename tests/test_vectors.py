"""Vectors against plain hooks and least squares; what is planted in them is found."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saif_core.errors import PromptPairError, SteeringError, UnknownLatentError
from saif_core.explaining.vectors import (
    MOST_PROMPTS,
    comparison_prompts,
    explain_vector,
    read_prompt_ends,
    steering_vector_at,
)
from saif_core.finding.vector_files import read_vector, vector_file
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.reading.mean_difference import read_mean_difference
from saif_core.records.jobs import Step
from saif_core.records.prompts import PromptPair
from saif_core.records.ranking import ChosenLatent, RankingRequest, ReadPosition
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


@pytest.fixture(scope="module")
def resid(model: LoadedModel) -> Tensor:
    return read_prompt_ends(model, 1, tiny.contents(12), chat=False)


def request(
    pairs: tuple[PromptPair, ...], read: ReadPosition = "last-token", n_tokens: int = 3
) -> RankingRequest:
    return RankingRequest("tiny-sae", "planted", pairs, False, read, n_tokens)


def mean_difference(
    model: LoadedModel, asked: RankingRequest, *, step: Step | None = None
) -> Tensor:
    return read_mean_difference(model, asked, [1], step=step)[1]


def last_row(folder: Path, text: str) -> Tensor:
    row: Tensor = tiny.read_plain(folder, [text], layer=1)[-1]
    return row


def test_mean_difference_at_the_last_token_equals_plain_hooks(
    model: LoadedModel, tiny_model_dir: Path
) -> None:
    pairs = tiny.planted_pairs(5)
    expected = torch.stack(
        [last_row(tiny_model_dir, p.positive) - last_row(tiny_model_dir, p.negative) for p in pairs]
    ).mean(0)
    torch.testing.assert_close(
        mean_difference(model, request(pairs)), expected, rtol=1e-4, atol=1e-5
    )


def test_pairs_that_share_a_prompt_count_as_often_as_they_occur(
    model: LoadedModel, tiny_model_dir: Path
) -> None:
    one, two = tiny.planted_pairs(2)
    found = mean_difference(model, request((one, one, two)))
    rows = {
        text: last_row(tiny_model_dir, text)
        for pair in (one, two)
        for text in (pair.positive, pair.negative)
    }
    expected = (2 * rows[one.positive] + rows[two.positive]) / 3
    expected -= (2 * rows[one.negative] + rows[two.negative]) / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mean_difference_over_answers_weighs_every_token_the_same(model: LoadedModel) -> None:
    pairs = tiny.planted_pairs(3)
    sides: list[list[Tensor]] = [[], []]
    for pair in pairs:
        for side, text in enumerate((pair.positive, pair.negative)):
            prompt = model.encode_prompt(text, chat=False)
            ids = torch.tensor([prompt])
            answer = model.hf_model.generate(ids, max_new_tokens=3, do_sample=False)[0]
            found: list[Tensor] = []
            block = tiny.blocks_of(model.hf_model)[1]
            handle = block.register_forward_hook(
                lambda _m, _a, out, kept=found: kept.append(
                    out[0] if isinstance(out, tuple) else out
                )
            )
            end = int(model.tokenizer.eos_token_id)
            written = [i for i in answer.tolist()[len(prompt) :] if i != end]
            with torch.no_grad():
                model.hf_model(torch.tensor([prompt + written]))
            handle.remove()
            sides[side].append(found[0].reshape(-1, tiny.D_MODEL)[len(prompt) :])
    expected = torch.cat(sides[0]).mean(0) - torch.cat(sides[1]).mean(0)
    steps: list[str] = []
    got = mean_difference(
        model, request(pairs, "response"), step=lambda _done, _total, said: steps.append(said)
    )
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert {"writing answers", "reading"} <= set(steps)


def test_no_pairs_and_no_prompts_are_refused(model: LoadedModel) -> None:
    with pytest.raises(PromptPairError, match="no prompt pairs"):
        mean_difference(model, request(()))
    with pytest.raises(PromptPairError, match="no prompts to compare"):
        read_prompt_ends(model, 1, ())


def test_the_planted_latent_is_the_first_atom_of_the_instruction(
    model: LoadedModel, sae: LoadedSae, resid: Tensor
) -> None:
    vector = mean_difference(model, request(tiny.planted_pairs(8)))
    along = float(vector @ tiny.plant_direction())
    report = explain_vector(model, sae, vector, resid)
    first = report.pursuit.atoms[0]
    assert first.index == tiny.PLANTED_LATENT
    assert report.fits[0][0] == pytest.approx(along, rel=1e-4)
    assert along > 1
    assert tiny.PLANTED_ANSWER in report.promoted[first.index][0]


def test_fits_are_least_squares_of_the_first_atoms(
    model: LoadedModel, sae: LoadedSae, resid: Tensor
) -> None:
    vector = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(3))
    report = explain_vector(model, sae, vector, resid, n_atoms=6)
    assert len(report.pursuit.atoms) == len(report.fits) == 6
    for k in (1, 3, 6):
        atoms = report.first_atoms(k)
        directions = sae.W_dec[[atom.index for atom in atoms]].double()
        gram = directions @ directions.T
        expected = torch.linalg.solve(gram, directions @ vector.double())
        assert [a.coefficient for a in atoms] == pytest.approx(expected.tolist(), rel=1e-4)
        approximation = expected @ directions
        assert report.pursuit.explained[k - 1] == pytest.approx(
            float(approximation @ vector.double()) / float(vector.double() @ vector.double()),
            rel=1e-4,
        )
    assert report.first_atoms(99) == report.first_atoms(6)


def test_sizes_and_changes_follow_their_definitions(
    model: LoadedModel, sae: LoadedSae, resid: Tensor
) -> None:
    vector = 3.0 * tiny.plant_direction()
    report = explain_vector(model, sae, vector, resid)
    median = float(np.median(resid.norm(dim=-1).numpy()[:11]))
    odd = explain_vector(model, sae, vector, resid[:11])
    assert report.norm == pytest.approx(3.0)
    assert odd.naive.norm_share == pytest.approx(3.0 / median, rel=1e-4)
    assert (report.n_prompts, odd.n_prompts) == (12, 11)
    change = (sae.encode(resid + vector) - sae.encode(resid)).mean(0)
    assert report.changes[0].index == int(change.abs().argmax()) == tiny.PLANTED_LATENT
    for found in report.changes:
        assert found.change == pytest.approx(float(change[found.index]), rel=1e-3, abs=1e-6)
    sizes = [abs(found.change) for found in report.changes]
    assert sizes == sorted(sizes, reverse=True)
    assert 0.0 not in sizes


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_steering_vector_comes_apart_into_the_latents_it_was_made_of(
    model: LoadedModel,
    sae: LoadedSae,
    resid: Tensor,
    normalisation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only the scale is at stake, so that the weights may stay as they are.
    monkeypatch.setattr(sae, "normalisation", normalisation)
    latents = (ChosenLatent(tiny.PLANTED_LATENT, 4.0), ChosenLatent(2, -1.5))
    vector = steering_vector_at(sae, latents, resid)
    scale = {
        "none": 1.0,
        "layer_norm": float(resid.std(dim=-1).median()),
        "constant_norm_rescale": float(resid.norm(dim=-1).median()) / math.sqrt(tiny.D_MODEL),
    }[normalisation]
    by_hand = scale * (4.0 * sae.W_dec[tiny.PLANTED_LATENT] - 1.5 * sae.W_dec[2])
    torch.testing.assert_close(vector, by_hand)
    found = explain_vector(model, sae, vector, resid).first_atoms(2)
    # The opposite of a latent's direction is another latent's in this SAE.
    assert found[0] == ChosenLatent(tiny.PLANTED_LATENT, pytest.approx(4.0, rel=1e-4))
    assert abs(found[1].coefficient) == pytest.approx(1.5, rel=1e-4)


def test_a_zero_vector_and_unknown_latents_are_refused(
    model: LoadedModel, sae: LoadedSae, resid: Tensor
) -> None:
    with pytest.raises(SteeringError, match="zero everywhere"):
        explain_vector(model, sae, torch.zeros(tiny.D_MODEL), resid)
    with pytest.raises(UnknownLatentError, match="latents 0 to 63"):
        steering_vector_at(sae, [ChosenLatent(64, 1.0)], resid)


def test_a_written_vector_is_read_back_unchanged() -> None:
    vector = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(4))
    again = read_vector("v.safetensors", vector_file(vector.tolist()), tiny.D_MODEL)
    assert torch.equal(again, vector)


def test_prompts_to_compare_with_are_the_ones_without_the_instruction() -> None:
    pairs = tiny.planted_pairs(3)
    assert comparison_prompts(request((*pairs, *pairs))) == tuple(p.negative for p in pairs)
    assert len(comparison_prompts(request(tiny.planted_pairs(100)))) == MOST_PROMPTS
    shipped = comparison_prompts(None)
    assert len(set(shipped)) == MOST_PROMPTS
