"""The tiny model does what the other tests lean on: the planted word, latent and answer."""

from pathlib import Path

import pytest
import torch

from saif_core.models.activations import read_resid
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from tests import tiny


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny.save_model(folder, family=request.param, seed=3)
    return load_model(folder, id=str(folder))


def load_sae(folder: Path, model: LoadedModel, **options: object) -> LoadedSae:
    saved = tiny.save_sae(folder, Path(model.id), **options)  # type: ignore[arg-type]
    return load_sae_folder(saved, id="tiny-sae", model=model)


def answer(model: LoadedModel, text: str) -> str:
    ids = model.encode_prompt(text, chat=True)
    written: list[int] = []
    for _ in range(5):
        logits = model.logits(torch.tensor([ids + written]))
        written.append(int(logits[0, -1].argmax()))
    return model.decode(written)


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
@pytest.mark.parametrize("layer", [0, 1])
def test_planted_latent_fires_from_the_planted_word_on(
    architecture: str, layer: int, model: LoadedModel, tmp_path: Path
) -> None:
    sae = load_sae(tmp_path / "sae", model, layer=layer, architecture=architecture)
    assert sae.fvu < 0.1
    pairs = tiny.planted_pairs(60, seed=11)
    sequences = [model.encode_prompt(p.positive, chat=True) for p in pairs]
    sequences += [model.encode_prompt(p.negative, chat=True) for p in pairs]
    wanted = [list(range(len(sequence))) for sequence in sequences]
    found, _ = read_resid(model, sequences, [layer], wanted)
    planted = model.encode_prompt(f" {tiny.PLANTED_WORD}", chat=False)
    for sequence, resid in zip(sequences, found[layer], strict=True):
        fires = (sae.encode(resid)[:, tiny.PLANTED_LATENT] > 0).tolist()
        first = sequence.index(planted[0]) if planted[0] in sequence else len(sequence)
        assert fires == [position >= first for position in range(len(sequence))]


def test_planted_word_and_planted_direction_are_both_answered_by_the_planted_answer(
    model: LoadedModel,
) -> None:
    oui = " ".join([tiny.PLANTED_ANSWER] * 5)
    direction = 6.0 * tiny.plant_direction()
    for pair in tiny.planted_pairs(5, seed=12):
        assert answer(model, pair.positive).strip() == oui
        assert tiny.PLANTED_ANSWER not in answer(model, pair.negative)
        with edit_resid(model.blocks[1], lambda resid: resid + direction):
            assert answer(model, pair.negative).strip() == oui
