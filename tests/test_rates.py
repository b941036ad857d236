"""Rates, intervals and paired tests against statsmodels and plain counting."""

from dataclasses import replace

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from saif_core.evaluating.rates import merit, paired_p, rates_of, wilson_interval
from saif_core.judging.fluency import distinct_share, is_disordered, known_share, outcome
from saif_core.records.evaluation import EvaluationText, Outcome
from saif_core.records.texts import Grade, Judgement


def text(
    grade: Grade | None,
    *,
    outcome: Outcome = "retained",
    perplexity: float | None = 5.0,
    about: bool | None = None,
) -> EvaluationText:
    return EvaluationText(0, "content", "two words", grade, "", outcome, perplexity, about)


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (1, 7), (23, 50), (50, 50), (99, 100)])
def test_intervals_are_wilsons(successes: int, n: int) -> None:
    expected = proportion_confint(successes, n, alpha=0.05, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=1e-9)


def test_nothing_seen_leaves_everything_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    "table", [[[5, 9], [2, 4]], [[0, 12], [0, 8]], [[3, 0], [0, 3]], [[1, 6], [6, 1]]]
)
def test_paired_tests_are_mcnemars(table: list[list[int]]) -> None:
    grades: list[tuple[Grade, Grade]] = []
    for row, one in enumerate(("strict", "loose")):
        for column, other in enumerate(("strict", "none")):
            grades += [(one, other)] * table[row][column]  # type: ignore[list-item]
    ones, others = ([text(grade) for grade in side] for side in zip(*grades, strict=True))
    assert paired_p(ones, others) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_texts_that_could_not_be_judged_are_counted_apart() -> None:
    texts = [
        text("strict", outcome="success", perplexity=2.0),
        text("loose", outcome="success", perplexity=8.0),
        text("none", outcome="disorder", perplexity=None),
        text(None),
        text("strict", outcome="disorder", perplexity=4.0),
    ]
    rates = rates_of(texts)
    assert (rates.n, rates.unjudged) == (4, 1)
    assert (rates.strict, rates.loose) == (0.5, 0.75)
    assert rates.useful == 0.25
    assert (rates.success, rates.retained, rates.disorder) == pytest.approx((0.4, 0.2, 0.4))
    assert rates.perplexity == 4.5
    assert paired_p(texts[:1], [text(None)]) is None
    assert paired_p(texts, texts) == 1.0


USEFUL = text("strict", outcome="success", about=True)
UNCHECKED = text("strict", outcome="success")
USELESS = (
    text("strict", outcome="success", about=False),
    text("strict", outcome="disorder"),
    text("strict", outcome="disorder", about=True),
    text("loose", outcome="success", about=True),
    text("none"),
)


def test_useful_texts_are_strict_whole_and_about_their_content() -> None:
    assert USEFUL.is_useful
    assert UNCHECKED.is_useful
    assert not any(one.is_useful for one in (*USELESS, text(None)))
    rates = rates_of([USEFUL, UNCHECKED, *USELESS, text(None)])
    assert rates.useful == pytest.approx(2 / 7)
    expected = proportion_confint(2, 7, alpha=0.05, method="wilson")
    assert rates.useful_ci == pytest.approx(expected, abs=1e-9)
    assert (rates.primary, rates.primary_ci) == (rates.useful, rates.useful_ci)
    assert rates.strict == pytest.approx(5 / 7)
    before = replace(rates, useful=None, useful_ci=None)
    assert (before.primary, before.primary_ci) == (rates.strict, rates.strict_ci)


def test_paired_tests_are_of_useful_texts() -> None:
    beside = text("strict", outcome="success", about=False)
    ones, others = [USEFUL] * 6 + [beside] * 4, [beside] * 6 + [USEFUL] * 4
    table = [[0, 6], [4, 0]]
    assert paired_p(ones, others) == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert paired_p(ones, others, counts=lambda one: one.grade == "strict") == 1.0


def test_settings_are_chosen_by_readable_then_useful_then_strict_texts() -> None:
    beside = text("strict", outcome="success", about=False)
    plain = text("none")
    broken = text("strict", outcome="disorder")
    in_order = [
        [USEFUL] * 6 + [broken] * 4,
        [plain] * 10,
        [text("loose", outcome="success")] * 2 + [plain] * 8,
        [beside] * 9 + [plain],
        [USEFUL] * 2 + [plain] * 8,
        [USEFUL] * 2 + [beside] * 2 + [plain] * 6,
        [USEFUL] * 3 + [plain] * 7,
    ]
    merits = [merit(rates_of(texts)) for texts in in_order]
    assert merits == sorted(merits)
    assert len(set(merits)) == len(merits)


def test_no_texts_are_no_rates() -> None:
    rates = rates_of([])
    assert (rates.useful, rates.useful_ci) == (0.0, (0.0, 1.0))
    assert (rates.n, rates.strict, rates.perplexity) == (0, 0.0, None)


def test_distinct_runs_of_words() -> None:
    assert distinct_share("la la la la", 1) == 0.25
    assert distinct_share("la la la la", 2) == pytest.approx(1 / 3)
    assert distinct_share("the cat and the cat", 2) == 0.75
    assert distinct_share("The the THE the", 2) == pytest.approx(1 / 3)
    assert distinct_share("one", 2) == distinct_share("", 1) == 1.0


def test_words_of_many_languages_are_known() -> None:
    assert known_share("The wife's volunteers won't reappear") == 1.0
    assert known_share("L'enfant d'aujourd'hui s'assied, n'est-ce pas ?") == 1.0
    assert known_share("together zxqvbrrf rainbows qqqqjjjj") == 0.5
    assert known_share("zxqv brrft qqqq") == known_share("") == 1.0


@pytest.mark.parametrize(
    ("words", "perplexity", "disordered"),
    [
        ("", None, True),
        ("!!! … ???", 3.0, True),
        ("la la la la la la la la la la", 3.0, True),
        ("No, no, no!", 3.0, False),
        ("Alle" + "í" * 40, 3.0, True),
        ("Give me a reason. " * 3, 3.0, True),
        ("The mayor thanked the volunteers for their help last week.", 9.0, False),
        ("The mayor thanked the volunteers for their help last week.", 5e4, True),
        ("\ud800 one \udfff", 3.0, False),
        ("Danktach, des Buchs ammerden, darsteswehten kiegenfruenwüsten den klüsten", 77.0, True),
        (
            "Der Bürgermeister dankte den freiwilligen Helferinnen für ihre Unterstützung.",
            9.0,
            False,
        ),
        ("我们感谢志愿者的帮助。", 9.0, False),
        ('{"nombre": "María", "edad": 25}', 9.0, False),
    ],
)
def test_disorder_is_empty_repeating_or_senseless(
    words: str, perplexity: float | None, disordered: bool
) -> None:
    assert is_disordered(words, perplexity) == disordered


def test_every_text_has_one_outcome() -> None:
    good = "A whole sentence that says something."
    assert outcome(Judgement("strict", ""), good, 5.0) == "success"
    assert outcome(Judgement("loose", ""), good, 5.0) == "success"
    assert outcome(Judgement("none", ""), good, 5.0) == "retained"
    assert outcome(Judgement(None, ""), good, 5.0) == "retained"
    assert outcome(Judgement("strict", ""), "oui " * 20, 5.0) == "disorder"
