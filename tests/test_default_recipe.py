"""What the first screen promises, on the default model and the shipped SAEs."""

import unicodedata
from pathlib import Path

import pytest

from app.settings import load_settings
from saif_core.catalog import Catalog
from saif_core.finding.ranking import choose_latents
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel
from saif_core.pipeline import rank_latents
from saif_core.records.prompts import PromptPair
from saif_core.records.ranking import Ranking, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from saif_core.registry import EVALUATORS
from saif_core.saes.card import measure_sae
from saif_core.writing.run import generate

pytestmark = pytest.mark.slow
# Read before a fixture gives every test a home of its own: the model is not fetched again.
HOME = load_settings().home


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(HOME)


@pytest.fixture(scope="module")
def model(catalog: Catalog) -> LoadedModel:
    return catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="float32")


def rank(
    catalog: Catalog, model: LoadedModel, name: str, layer: int, read: str, n_contents: int
) -> Ranking:
    instruction = shipped_instructions()[name]
    pairs = make_pairs(instruction, shipped_contents()[:n_contents])
    sae = catalog.load_sae(f"{DEFAULT_MODEL}/layer{layer}", model)
    return rank_latents(model, sae, RankingRequest(sae.id, name, pairs, read=read))


def test_default_recipe_turns_held_out_answers_french(catalog: Catalog, model: LoadedModel) -> None:
    ranking = rank(catalog, model, "translate-to-french", 14, "response", 8)
    sae = catalog.load_sae(f"{DEFAULT_MODEL}/layer14", model)
    contents = tuple(shipped_contents()[-12:])
    edit = Edit(sae.layer, sae_id=sae.id, latents=choose_latents(ranking))
    arms = (UNSTEERED, Arm("steered", edits=(edit,)))
    request = GenerationRequest(contents, arms, Sampling(max_new_tokens=32))
    result = generate(model, {sae.id: sae}, request)
    judge = EVALUATORS.bind("language", {"language": "fr"})
    french = {"unsteered": 0, "steered": 0}
    for generation in result.generations:
        pair = PromptPair(generation.prompt, generation.prompt, generation.prompt)
        french[generation.arm] += judge(pair, generation.text).grade in ("strict", "loose")
    assert french["steered"] >= 8
    assert french["unsteered"] == 0


def is_french(token: str) -> bool:
    """Whether a token is written with French accents or is a common French word."""
    words = {"vous", "je", "nous", "les", "des", "est", "une", "dans", "pour", "avec", "le", "de"}
    accents = {"GRAVE", "ACUTE", "CIRCUMFLEX", "CEDILLA"}
    names = [unicodedata.name(letter, "") for letter in token]
    accented = any(name.startswith("LATIN") and accents & set(name.split()) for name in names)
    return accented or token.strip().lower() in words


def test_last_layer_ranking_finds_french_tokens(catalog: Catalog, model: LoadedModel) -> None:
    ranking = rank(catalog, model, "translate-to-french", 29, "last-token", 16)
    promoted = [latent.top_tokens for latent in ranking.latents[:15]]
    assert any(sum(map(is_french, tokens)) >= 2 for tokens in promoted), promoted


def test_last_layer_ranking_finds_json_tokens(catalog: Catalog, model: LoadedModel) -> None:
    ranking = rank(catalog, model, "answer-in-json", 29, "last-token", 16)
    promoted = [token for latent in ranking.latents[:15] for token in latent.top_tokens]
    found = [t for t in promoted if '{"' in t or "```" in t or t.strip().lower() == "json"]
    assert found, promoted


@pytest.mark.parametrize("layer", [14, 22, 29])
def test_shipped_cards_hold_on_other_text(layer: int, catalog: Catalog, model: LoadedModel) -> None:
    sae = catalog.load_sae(f"{DEFAULT_MODEL}/layer{layer}", model)
    info = next(info for info in catalog.saes(DEFAULT_MODEL) if info.layer == layer)
    assert Path(info.path).is_dir()
    text = [
        model.encode_prompt(" ".join(shipped_contents()[i : i + 3]), chat=False)
        for i in range(0, 24, 3)
    ]
    card = measure_sae(model, sae, {"contents": text}).cards[0]
    english = next(card for card in info.cards if card.text == "english")
    assert card.l0 == pytest.approx(english.l0, abs=1)
    assert card.fvu == pytest.approx(english.fvu, abs=0.12)
    assert card.ce_recovered == pytest.approx(english.ce_recovered, abs=0.12)
