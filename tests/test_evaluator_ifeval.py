import json
import logging
import random

import pytest

from saif_core.errors import EvaluatorError
from saif_core.judging.evaluators.ifeval import ifeval
from saif_core.records.prompts import PromptPair

PAIR = PromptPair("Say it.", "")
ENGLISH = "Skip the castle and go straight to the old market by the river."
LESS_THAN_4 = {"num_words": 4, "relation": "less than"}


def grade(instruction_id: str, text: str, **arguments: object) -> str | None:
    return ifeval(PAIR, text, instruction_id=instruction_id, arguments=json.dumps(arguments)).grade


@pytest.mark.parametrize(
    ("instruction_id", "arguments", "expected", "text"),
    [
        ("punctuation:no_comma", {}, "strict", "Go there."),
        ("punctuation:no_comma", {}, "loose", "Sure, here it is.\nGo there."),
        ("punctuation:no_comma", {}, "loose", "Go there.\nI hope, it helps."),
        ("punctuation:no_comma", {}, "loose", "Sure, yes:\nGo there.\nBye, then."),
        ("punctuation:no_comma", {}, "none", "Go, there."),
        ("startend:quotation", {}, "loose", '*"Go there."*'),
        ("change_case:english_capital", {}, "strict", ENGLISH.upper()),
        ("change_case:english_capital", {}, "none", ENGLISH),
        ("language:response_language", {"language": "en"}, "strict", ENGLISH),
        ("language:response_language", {"language": "de"}, "none", ENGLISH),
        ("length_constraints:number_words", LESS_THAN_4, "strict", "Three short words"),
        ("length_constraints:number_words", LESS_THAN_4, "none", "These are four words"),
        ("keywords:existence", {"keywords": ["castle", "river"]}, "strict", ENGLISH),
        ("keywords:existence", {"keywords": ["castle", "tower"]}, "none", ENGLISH),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "strict", "Go.\nP.S. Now"),
        ("startend:end_checker", {"end_phrase": "Is (it) so?"}, "strict", "Go! Is (it) so?"),
        (
            "keywords:frequency",
            {"keyword": "go", "frequency": 2, "relation": "at least", "language": None},
            "strict",
            "Go, go.",
        ),
    ],
)
def test_a_check_grades_a_known_text(
    instruction_id: str, arguments: dict[str, object], expected: str, text: str
) -> None:
    assert grade(instruction_id, text, **arguments) == expected


def test_a_language_is_the_same_at_every_look() -> None:
    # Unseeded, one look in seven finds Portuguese here and the others Czech.
    looks = {grade("language:response_language", "no hotel", language="pt") for _ in range(60)}
    assert len(looks) == 1


def test_an_unknown_check_names_known_ones() -> None:
    with pytest.raises(EvaluatorError, match="no check 'case:upper'.*punctuation:no_comma"):
        grade("case:upper", "Go.")


@pytest.mark.parametrize(
    ("instruction_id", "arguments", "problem"),
    [
        ("punctuation:no_comma", "{", "are no JSON"),
        ("punctuation:no_comma", "[" * 100_000, "are no JSON"),
        ("punctuation:no_comma", "[]", "no JSON object"),
        ("punctuation:no_comma", '{"num_words": 3}', r"other names than it takes \(none\)"),
        ("length_constraints:number_words", '{"num_words": 3}', "num_words, relation"),
        ("length_constraints:number_words", '{"num_words": "3", "relation": "at least"}', "num_w"),
        ("length_constraints:number_words", '{"num_words": -3, "relation": "at least"}', "num_w"),
        ("length_constraints:number_words", '{"num_words": 3, "relation": "about"}', "a word"),
        ("language:response_language", '{"language": "tlh"}', "a word"),
        ("keywords:existence", '{"keywords": "castle"}', "'keywords'"),
        ("keywords:existence", '{"keywords": []}', "'keywords'"),
        ("keywords:existence", '{"keywords": ["(a+)+$"]}', "no plain text"),
        (
            "keywords:letter_frequency",
            '{"letter": "#", "let_frequency": 4, "let_relation": "at least"}',
            "'letter'",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            '{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "go"}',
            "'nth_paragraph'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    instruction_id: str, arguments: str, problem: str
) -> None:
    # IFEval draws at random in place of what it cannot use: no draw may let it through.
    for seed in range(8):
        random.seed(seed)
        with pytest.raises(EvaluatorError, match=problem):
            ifeval(PAIR, "", instruction_id=instruction_id, arguments=arguments)


def test_a_check_without_its_data_is_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    judgement = ifeval(
        PAIR,
        "GO there.",
        instruction_id="change_case:capital_word_frequency",
        arguments='{"capital_frequency": 1, "capital_relation": "at least"}',
    )
    assert judgement.grade is None
    assert "NLTK's data" in judgement.reason


def test_a_text_without_letters_follows_a_language(caplog: pytest.LogCaptureFixture) -> None:
    # IFEval's own rule, which the documentation names as a known mistake.
    with caplog.at_level(logging.CRITICAL):
        assert grade("language:response_language", "7 + 7", language="fr") == "strict"
