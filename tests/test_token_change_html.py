import re
from dataclasses import replace

import pytest

from app.presentation.token_change_html import change_words, changes_html, legend_html
from saif_core.records.texts import TokenDivergence


def change(token: str, by: float, *, kl: float = 0.0, strength: float = 0.0) -> TokenDivergence:
    return TokenDivergence(token, -1.5, by, kl, strength)


def tints(shown: str) -> list[int]:
    return [int(share) for share in re.findall(r"color-mix\(in srgb,#\w+ (\d+)%", shown)]


def test_tint_grows_with_the_change_and_is_full_from_four_nats() -> None:
    shown = changes_html(
        [change(c, by) for c, by in (("a", 1.0), ("b", 2.0), ("c", 9.0))], "change"
    )
    assert tints(shown) == [12, 25, 50]


def test_more_and_less_probable_differ_in_colour_and_in_the_underline() -> None:
    more, less = (changes_html([change("a", by)], "change") for by in (2.0, -2.0))
    assert "solid #d55e00" in more
    assert "dotted #2b7fc4" in less


def test_the_tint_of_kl_does_not_follow_the_change() -> None:
    shown = changes_html([change("a", -4.0, kl=0.0), change("b", 0.0, kl=4.0)], "kl")
    assert tints(shown) == [50]
    assert shown.index("color-mix") > shown.index(">a<")


def test_tokens_that_were_steered_have_a_line_above() -> None:
    shown = changes_html([change("a", 0.0), change("b", 0.0, strength=-0.5)], "change")
    plain, steered = re.findall(r"<span title[^>]*>", shown)
    assert "border-top" not in plain
    assert "border-top" in steered


def test_figures_are_exact_and_name_both_log_probabilities() -> None:
    words = change_words(TokenDivergence("a", -3.25, 2.0, 0.125, 0.8))
    assert words == (
        "log-probability -1.25 here, -3.25 unsteered (change +2.00) · KL 0.125 nats · strength 0.8"
    )
    assert words in changes_html([TokenDivergence("a", -3.25, 2.0, 0.125, 0.8)], "kl")


@pytest.mark.parametrize("tint", ["change", "kl"])
def test_everything_is_escaped_and_line_breaks_stay(tint: str) -> None:
    shown = changes_html([change("<script>", 1.0), change('"&', 1.0), change("\n", 1.0)], tint)  # type: ignore[arg-type]
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "&quot;&amp;" in shown
    assert "</span>\n</span>" in shown


def test_gates_are_tinted_as_far_as_they_are_open_together_or_one_by_one() -> None:
    changes = [
        replace(change("a", 0.0), gates=(0.0, 2.0)),
        replace(change("b", 0.0), gates=(0.5, 0.5)),
        replace(change("c", 0.0), gates=(0.0, 0.0)),
    ]
    assert tints(changes_html(changes, "gates")) == [50, 25]
    assert tints(changes_html(changes, "gates", gate=0)) == [50]
    names = ["latent 7", "latent 9"]
    shown = changes_html(changes, "gates", names=names)
    assert "gates: latent 9 2.00" in shown
    assert "gates: latent 7 0.50, latent 9 0.50" in shown
    assert "gates: all closed" in shown
    # A text whose gates never open has nothing to tint, and divides by nothing.
    assert tints(changes_html(changes[2:], "gates")) == []
    assert "gates" not in changes_html([change("a", 1.0)], "change")


def test_legends_say_what_is_shown() -> None:
    assert "less probable than unsteered" in legend_html("change")
    assert "KL divergence" in legend_html("kl")
    assert all("steered as it was written" in legend_html(tint) for tint in ("change", "kl"))  # type: ignore[arg-type]
