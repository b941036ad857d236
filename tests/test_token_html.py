import html
import re

import pytest

from app.presentation.token_html import TintedText, examples_html, text_html


def plain(body: str) -> str:
    """What copying gives: no tags, no marks that are not selected, entities resolved."""
    without_marks = re.sub(r"<span style=\"[^\"]*user-select:none[^\"]*\">[^<]*</span>", "", body)
    return html.unescape(re.sub(r"<[^>]*>", "", without_marks))


def tints(body: str) -> list[int]:
    return [int(share) for share in re.findall(r"#2b7fc4 (\d+)%", body)]


def test_copying_gives_the_text_and_white_space_is_marked() -> None:
    tokens = ("The", " cat\n", "\t", "  ", "sat.", "\n\n")
    body = text_html(TintedText(tokens, (0.0, 1.0, 0.0, 0.5, 0.0, 0.0)), 2.0)
    assert plain(body) == "".join(tokens)
    assert [body.count(mark) for mark in "↵⇥·"] == [3, 1, 2]


def test_tint_and_underline_grow_with_the_activation_and_its_value_is_exact() -> None:
    body = text_html(TintedText(("a", "b", "c"), (0.0, 1.25, 5.0)), 5.0)
    weak, strong = tints(body)
    assert 0 < weak < strong
    low, high = (float(width) for width in re.findall(r"border-bottom:([\d.]+)px", body))
    assert low < high
    assert re.findall(r'title="activation ([\d.]+)"', body) == ["1.25", "5"]


def test_the_firing_token_alone_is_framed() -> None:
    body = text_html(TintedText(("a", "b", "c"), (1.0, 2.0, 3.0), firing=1), 3.0)
    (framed,) = re.findall(r"<mark[^>]*>([^<]*)</mark>", body)
    assert framed == "b"


@pytest.mark.parametrize("token", ["<script>alert(1)</script>", '"><img src=x onerror=x>', "&lt;"])
def test_tokens_cannot_become_html(token: str) -> None:
    body = examples_html([TintedText((token, token), (0.0, 1.0), firing=1)], 1.0)
    assert "<script" not in body
    assert "<img" not in body
    assert plain(body) == 2 * token


def test_examples_say_the_activation_of_their_firing_token() -> None:
    body = examples_html([TintedText(("a", "b"), (4.0, 1.5), firing=1)], 4.0)
    assert re.findall(r"user-select:none\">([\d.]+)<", body) == ["1.5"]


def test_a_text_on_which_nothing_fires_has_no_tint() -> None:
    assert tints(text_html(TintedText(("a", "b"), (0.0, 0.0)), 0.0)) == []


def test_a_value_above_the_maximum_has_the_full_tint() -> None:
    body = text_html(TintedText(("a", "b"), (2.0, 1.0)), 1.0)
    assert tints(body) == [tints(body)[1]] * 2
