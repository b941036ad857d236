"""Sentences about texts and sessions: each says what is so."""

from dataclasses import replace

import pytest

from app.presentation.sessions import (
    default_session_name,
    made_words,
    pair_of,
    sampling_words,
    selective_sentence,
    writing_words,
)
from app.presentation.texts import ArmText, disorder_sentence, text_facts
from saif_core.judging.fluency import disorder_reason, is_disordered
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Arm, Sampling
from saif_core.records.texts import Generation
from tests import saved

LOOPS = ("la la la", "la " * 20, "no-" + "n-" * 30, "Bread. " * 9, "la la la la la la")


def facts(text: str, perplexity: float | None) -> str:
    generation = Generation(0, "p", "steered", text, (1, 2, 3), "length", perplexity)
    return text_facts(ArmText(text, 3, generation))


@pytest.mark.parametrize("text", LOOPS[1:])
def test_a_loop_carries_a_warning_whatever_its_perplexity(text: str) -> None:
    told = facts(text, 1.3)
    assert "disorder: it repeats itself" in told
    assert told.index("disorder") < told.index("perplexity 1.3")
    assert is_disordered(text, 1.3)


def test_perplexity_never_stands_alone() -> None:
    told = facts("Bread is baked every morning.", 12.5)
    assert told.endswith("no disorder · perplexity 12.5 under the unsteered model")


@pytest.mark.parametrize(
    ("text", "perplexity", "reason"),
    [
        ("", None, "it has no words"),
        ("En bagu de bagu, il est touj de bagu", 40.0, "most of it is in no known words"),
        ("Bread is baked every morning.", 5000.0, "it makes no sense to the unsteered model"),
        ("No, no, not that one.", 12.0, ""),
        ("Oui.", 12.0, ""),
    ],
)
def test_what_breaks_a_text_is_said(text: str, perplexity: float | None, reason: str) -> None:
    assert disorder_reason(text, perplexity) == reason


def test_broken_texts_are_counted_for_every_arm() -> None:
    result = saved.result()
    first, second = result.generations
    broken = replace(result, generations=(first, replace(second, text="la " * 20)))
    assert disorder_sentence(broken).endswith("unsteered 0 of 1; steered 1 of 1.")


def test_what_was_ranked_is_said_and_never_the_other() -> None:
    ranking = saved.ranking()
    assert "of answer tokens with" in selective_sentence(ranking)
    prompts = selective_sentence(replace(ranking, read="last-token"))
    assert "of prompts, at their last token, with" in prompts
    assert "answer" not in prompts


def test_a_session_says_in_words_what_wrote_its_texts_and_when() -> None:
    session = replace(
        saved.session(),
        created_at="2026-11-28T02:25:27+00:00",
        updated_at="2026-11-28T02:25:27+00:00",
    )
    assert made_words(session).startswith("Made with SAIF on 28 November 2026, 02:25 UTC, by")
    assert pair_of(session) == (f"{saved.PROMPT} Answer in capital letters.", saved.PROMPT)
    told = replace(saved.request(), arms=(Arm("told", "prompted", instruction="Shout!"),))
    recipe = replace(saved.recipe(), request=told)
    assert pair_of(replace(session, recipe=recipe)) == (f"{saved.PROMPT} Shout!", saved.PROMPT)
    assert pair_of(replace(session, recipe=None)) is None
    system = replace(told, sampling=Sampling(system="Be brief.", chat=False))
    words = writing_words(replace(recipe, request=system))
    assert words.startswith("Written by tiny; prompts were given as raw text; greedy")
    assert "The system prompt was “Be brief.”." in words


def test_no_typed_value_is_rounded_and_one_latent_has_no_s() -> None:
    words = sampling_words(Sampling(temperature=0.1234567, top_p=0.9999999))
    assert "temperature 0.1234567, top p 0.9999999" in words
    one = (ChosenLatent(3, 1.0),)
    assert default_session_name("shout", one, 0.75) == "shout: 1 latent at strength 0.75"
