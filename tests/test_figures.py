import pytest

from app.presentation.figures import (
    counted,
    left_out_words,
    moment_words,
    number_words,
    shown_at,
    too_long,
)


def test_a_noun_takes_an_s_unless_there_is_one() -> None:
    assert [counted(n, "latent") for n in (0, 1, 2, 1200)] == [
        "0 latents",
        "1 latent",
        "2 latents",
        "1,200 latents",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0004, 0.0), (-0.0, 0.0), (-0.0006, -0.0006), (0.0004, 0.0004), (2, 2)]
)
def test_no_value_is_shown_as_minus_nothing(value: float, shown: float) -> None:
    assert str(shown_at(value, 3)) == str(shown)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-28T02:25:27+00:00", "28 November 2026, 02:25 UTC"),
        ("2026-11-28T03:25:27+01:00", "28 November 2026, 02:25 UTC"),
        ("2026-11-08T02:05:27", "8 November 2026, 02:05"),
        ("<b>", "<b>"),
        ("", ""),
    ],
)
def test_a_moment_is_told_in_plain_words(moment: str, words: str) -> None:
    assert moment_words(moment) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0.75, "0.75"), (1.0, "1"), (-0.0, "0"), (1e5, "100000"), (12.345678, "12.345678")],
)
def test_a_number_is_told_as_it_was_typed(number: float, words: str) -> None:
    assert number_words(number) == words


def test_a_text_that_is_too_long_is_told_so_with_what_to_do() -> None:
    assert too_long("The text", "a" * 10, 10) == ""
    assert too_long("The text", "a" * 1011, 1000) == (
        "The text has 1,011 characters, but at most 1,000 are taken; shorten it by 11."
    )


def test_conversations_left_out_are_told_with_their_number() -> None:
    said = "1 conversation left out, as the model's chat template refuses them."
    assert left_out_words(1) == said
    assert left_out_words(1200).startswith("1,200 conversations left out")
