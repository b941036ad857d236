"""Whether a text is about its content: planted texts, tiny models, and the rule itself."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from app.settings import load_settings
from experiments.content_calibration import (
    LANGUAGES,
    gold_of_file,
    half_of,
    measure,
    prompt_maker,
    shipped_gold,
    shortened,
    write,
)
from saif_core.errors import PromptPairError
from saif_core.inputs.prompt_pairs import load_contents, load_references
from saif_core.inputs.shipped import shipped_contents, shipped_instructions, shipped_references
from saif_core.judging.content import (
    N_OTHERS,
    choose_others,
    chrf_scores,
    compared_contents,
    content_verdicts,
    embedding_scores,
    encode_text,
    log_prob_scores,
)
from saif_core.judging.content_measures import (
    by_log_prob,
    by_references,
    calibrated_kinds,
    calibration,
    choose_measure,
    comparison_pool,
    judge_contents,
)
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import TextEmbedder, is_installed
from tests import tiny

HOME = load_settings().home
FRENCH = shipped_instructions()["translate-to-french"]
QUESTION = shipped_instructions()["as-a-question"]
OWN = ["My own sentence number " + "x" * n for n in range(30)]


def french(texts: Sequence[str], contents: Sequence[str]) -> list[bool]:
    references = shipped_references("fr")
    found = judge_contents(by_references(references), texts, contents, shipped_contents())
    return [one.is_about for one in found]


# --- references


def test_every_shipped_content_has_a_translation_into_each_language() -> None:
    contents = shipped_contents()
    for language in ("fr", "de", "es", "zh"):
        references = shipped_references(language)
        assert list(references) == contents
        assert len(set(references.values())) == len(contents) == 240
        assert not any("\u00a0" in text for text in references.values())
    assert shipped_references("it") == {}


def test_a_persons_file_may_have_references() -> None:
    rows: list[dict[str, Any]] = [
        {"text": " One. ", "references": {"fr": "Un.", "it": " Uno. "}},
        {"text": "Two."},
        {"content": "One.", "references": {"fr": "Une."}},
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    assert load_references(data, filename="a.jsonl") == {
        "fr": {"One.": "Un."},
        "it": {"One.": "Uno."},
    }
    assert load_contents(data, filename="a.jsonl") == ["One.", "Two.", "One."]
    assert load_references(b"One.\n", filename="a.txt") == {}
    assert load_references(b"text\nOne.\n", filename="a.csv") == {}


@pytest.mark.parametrize("references", ["Un.", ["Un."], {"fr": ""}, {"fr": 1}])
def test_references_that_are_none_are_refused(references: object) -> None:
    data = json.dumps({"text": "One.", "references": references}).encode()
    with pytest.raises(PromptPairError, match="line 1"):
        load_references(data, filename="a.jsonl")


# --- the rule


def test_others_are_near_in_length_and_always_the_same() -> None:
    contents = shipped_contents()
    for content in contents[:20]:
        others = choose_others(content, contents)
        assert others == choose_others(content, contents[::-1] * 2)
        assert len(set(others)) == N_OTHERS
        assert content not in others
        nearest = sorted(abs(len(one) - len(content)) for one in contents if one != content)
        assert max(abs(len(one) - len(content)) for one in others) == nearest[N_OTHERS - 1]
    assert choose_others("a", ["a", "b"]) == ["b"]


def test_chance_makes_one_in_twenty() -> None:
    scores = np.random.default_rng(0).normal(size=(20_000, 1 + N_OTHERS))
    verdicts = content_verdicts(scores)
    assert np.mean([one.is_about for one in verdicts]) == pytest.approx(0.05, abs=0.005)
    assert all(one.is_about == (one.p <= 0.05) for one in verdicts)


def test_ties_and_too_few_others_never_prove_anything() -> None:
    first = np.zeros((1, 1 + N_OTHERS))
    assert content_verdicts(first)[0] == (0.0, 1.0, False)
    first[0, 0] = 2.0
    assert content_verdicts(first)[0] == (2.0, 0.05, True)
    first[0, 7] = 2.0
    assert not content_verdicts(first)[0].is_about
    assert not content_verdicts(np.array([[9.0, *[0.0] * (N_OTHERS - 1)]]))[0].is_about
    assert content_verdicts(np.array([[9.0]]))[0] == (0.0, 1.0, False)


def test_a_verdict_does_not_depend_on_the_texts_beside_it() -> None:
    contents, references = shipped_contents()[:6], shipped_references("fr")
    texts = [" ".join(references[one].split()[::2]) for one in contents]
    together = french(texts, contents)
    assert together == [french([t], [c])[0] for t, c in zip(texts, contents, strict=True)]


# --- chrF


def test_translations_are_about_their_contents_and_others_are_not() -> None:
    contents, references = shipped_contents()[:30], shipped_references("fr")
    right = [references[one] for one in contents]
    assert all(french(right, contents))
    # Half of the words, as a text that breaks off or goes astray.
    assert sum(french([" ".join(text.split()[::2]) for text in right], contents)) >= 28
    assert sum(french(right[1:] + right[:1], contents)) <= 4
    assert not any(french(["", " \n\t"], contents[:2]))
    assert sum(french(["The cat sat on the mat."] * 30, contents)) <= 4


def test_chrf_is_that_of_its_definition() -> None:
    # One shared character of four and of two: precision 1/4, recall 1/2 of single characters,
    # and none of pairs; beta is 2.
    scores = chrf_scores(["abcd"], [["ax", "abcd", "xyzw"]])
    precision, recall = (1 / 4 + 0) / 2, (1 / 2 + 0) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert scores[0] == pytest.approx([expected, 100.0, 0.0])


# --- log-probability


def test_log_probabilities_are_those_of_the_perplexity(model: LoadedModel) -> None:
    contents = tiny.contents(5)
    prompts = [model.encode_prompt(one, chat=True) for one in contents]
    texts = [encode_text(model, one) for one in ("oui oui", "a cat", "")]
    rows = [[prompts[0], prompts[1]], [prompts[2], prompts[0]], [prompts[1], prompts[2]]]
    told: list[tuple[int, int]] = []
    scores = log_prob_scores(model, texts, rows, on_row=lambda n, of: told.append((n, of)))
    assert scores.shape == (3, 2)
    assert told[-1] == (4, 4)
    for row in range(2):
        alone = read_perplexities(model, rows[row], [texts[row]] * 2)
        assert np.exp(-scores[row]) == pytest.approx(alone, rel=1e-4)
    assert scores[2].tolist() == [0.0, 0.0]


def test_the_content_that_explains_a_text_wins(model: LoadedModel) -> None:
    others = tiny.contents(N_OTHERS)
    planted = f"The old cat sees the {tiny.PLANTED_WORD}."
    pool = [planted, *others]
    scorer = by_log_prob(model, lambda content: model.encode_prompt(content, chat=True))
    texts = ["oui oui oui", "oui oui oui", ""]
    found = judge_contents(scorer, texts, [planted, others[0], planted], pool)
    assert [one.is_about for one in found] == [True, False, False]
    assert found[0].lift > 1.0 > found[1].lift


# --- embeddings


class Letters:
    """Embeds a text as how often it has each letter."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array(
            [[1e-6 + text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        )
        unit: np.ndarray = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return unit.astype(np.float32)


def test_cosines_with_the_own_content_come_first() -> None:
    rows = compared_contents(shipped_contents()[:4], shipped_contents())
    texts = [row[0].upper() for row in rows[:3]] + [" "]
    scores = embedding_scores(cast(TextEmbedder, Letters()), texts, rows)
    assert scores.shape == (4, 1 + N_OTHERS)
    assert scores[:3, 0] == pytest.approx(1.0)
    assert [one.is_about for one in content_verdicts(scores)] == [True, True, True, False]


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="the wheel is optional")
def test_sentence_embeddings_know_a_reworded_content() -> None:
    contents = shipped_contents()
    texts = [
        "Should you put savings into something if you don't know how it makes a profit?",
        "- Roof rests on six slim columns\n- No walls are needed inside the hall",
        "The weather was nice yesterday.",
    ]
    rows = compared_contents(contents[:3], contents)
    verdicts = content_verdicts(embedding_scores(TextEmbedder(), texts, rows))
    assert [one.is_about for one in verdicts] == [True, True, False]


# --- which measure


def test_references_are_used_where_all_contents_have_one() -> None:
    chosen = choose_measure(FRENCH, shipped_contents()[:3], model_id="any", embeds=True)
    assert chosen == ("chrf", "fr", "")
    own = {content: content for content in OWN}
    assert choose_measure(FRENCH, OWN, model_id="any", references=own)[0] == "chrf"


def test_a_calibrated_model_judges_what_has_no_references() -> None:
    chosen = choose_measure(FRENCH, OWN, model_id="any", embeds=True)
    assert chosen.measure is None
    assert "30 of 30 contents have no reference translation into 'fr'" in chosen.reason
    expected = "log_prob" if "fr" in calibrated_kinds(DEFAULT_MODEL) else None
    assert choose_measure(FRENCH, OWN, model_id=DEFAULT_MODEL, embeds=True).measure == expected


def test_texts_in_the_language_of_the_content_are_compared_with_it() -> None:
    assert choose_measure(QUESTION, OWN, model_id="any", embeds=True)[0] == "embedding"
    without = choose_measure(QUESTION, OWN, model_id="any", embeds=False)
    assert without.measure is None
    assert "not installed; run 'pip install" in without.reason
    english = replace(FRENCH, evaluator_parameters={"language": "en"})
    assert choose_measure(english, OWN, model_id="any", embeds=True)[0] == "embedding"


def test_nothing_is_measured_where_nothing_can_be() -> None:
    refusal = shipped_instructions()["refuse"]
    assert choose_measure(refusal, OWN, model_id="any").measure is None
    nobody = replace(FRENCH, evaluator="")
    assert "no evaluator" in choose_measure(nobody, OWN, model_id="any").reason
    few = choose_measure(QUESTION, OWN[:5], model_id="any", embeds=True)
    assert few.measure is None
    assert "there are only 5 contents in all; give at least 20." in few.reason


def test_shipped_contents_are_compared_with_all_of_them() -> None:
    assert comparison_pool(shipped_contents()[:2]) == shipped_contents()
    mixed = [*shipped_contents()[:2], "Mine."]
    assert comparison_pool(mixed) == mixed


# --- the calibration


def test_the_kept_figures_are_those_that_are_measured() -> None:
    kept = {(row.texts, row.measure, row.kind): row for row in calibration()}
    spanish = next(gold for gold in shipped_gold() if gold.kind == "es")
    scorer = by_references(spanish.by_content)
    found = measure("chrf", "", half_of(spanish), scorer, 240)
    assert found == kept[found.texts, "chrf", "es"]
    for language in LANGUAGES:
        assert kept[found.texts, "chrf", language].hits >= 0.95
        assert ("shipped", "log_prob", language) in kept
    assert all(row.false_alarms <= 0.17 for row in kept.values())


def test_pairs_of_a_file_are_measured_too(tmp_path: Any) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"en": f"Sentence {n}.", "fr": f"Phrase {n}."} for n in range(40)]
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0]])), encoding="utf-8")
    (gold,) = gold_of_file(file)
    assert (gold.texts, gold.kind, len(gold.by_content)) == ("pairs", "fr", 40)
    row = measure("chrf", "", gold, by_references(gold.by_content), 10)
    write([row], tmp_path / "out.json")
    write([row._replace(n=9)], tmp_path / "out.json")
    assert [one["n"] for one in json.loads((tmp_path / "out.json").read_text())["rows"]] == [9]


@pytest.mark.slow
def test_the_default_model_tells_french_contents_apart() -> None:
    from saif_core.catalog import Catalog

    model = Catalog(HOME).load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    gold = next(gold for gold in shipped_gold() if gold.kind == "fr")
    scorer = by_log_prob(model, prompt_maker(model, gold.instruction))
    row = measure("log_prob", model.id, shortened(gold, model), scorer, 8)
    assert row.hits >= 0.6
    assert row.lift > 0.2
