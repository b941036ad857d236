import pytest

from app.presentation.text_diff import (
    Piece,
    changed_share,
    diff_html,
    diff_words,
    plain_html,
    split_words,
)


@pytest.mark.parametrize("text", ["", "Le maire, a-t-il dit ?\n", "一个年轻人 sweeps", "  \t x"])
def test_split_words_lose_nothing(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_only_words_that_differ_are_marked() -> None:
    assert diff_words("A young man sweeps.", "A young homme balaie.") == [
        Piece("A young ", False),
        Piece("homme balaie", True),
        Piece(".", False),
    ]


def test_a_different_line_break_is_no_different_word() -> None:
    assert diff_words("one two", "one\n\ntwo") == [Piece("one\n\ntwo", False)]


def test_chinese_is_compared_sign_by_sign() -> None:
    assert [piece.text for piece in diff_words("我爱你", "我恨你") if piece.changed] == ["恨"]


def test_everything_is_marked_when_nothing_was_there() -> None:
    assert diff_words("", "Bonjour le monde") == [Piece("Bonjour le monde", True)]


def test_nothing_is_marked_when_words_are_only_missing() -> None:
    assert diff_words("one two three", "one three") == [Piece("one three", False)]


def test_repeated_words_of_a_long_text_are_not_taken_for_changed() -> None:
    text = "the cat and the dog " * 100
    assert changed_share(diff_words(text, text)) == 0.0


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [("a b c d", "a x c y", 0.5), ("a", "", 0.0), ("", " ", 0.0), ("", "a", 1.0)],
)
def test_changed_share_counts_words(before: str, after: str, share: float) -> None:
    assert changed_share(diff_words(before, after)) == share


@pytest.mark.parametrize("before", ["", "<b>x</b> & <script>alert(1)</script>"])
def test_html_of_a_text_is_escaped_marked_or_not(before: str) -> None:
    shown = diff_html(before, '<script>alert("1")</script> & "')
    assert "<script" not in shown
    assert "&lt;" in shown
    assert "&amp;" in shown
    assert "<script" not in plain_html("<script>")


def test_a_difference_is_underlined_and_not_told_by_colour_alone() -> None:
    shown = diff_html("one", "two")
    assert "<mark" in shown
    assert "text-decoration:underline" in shown
    assert "<mark" not in diff_html("one", "one")
