import re

import pytest

from app.dashboard.fields.explained_columns import explained_columns
from app.presentation.glossary import (
    GLOSSARY,
    PAGE_WORDS,
    explain,
    glossary,
    meaning,
    words_in,
    words_on_pages,
)


def test_every_row_of_the_file_is_read() -> None:
    n_rows = len(re.findall(r"^\| \*\*", GLOSSARY.read_text(encoding="utf-8"), re.M))
    assert n_rows > 50
    assert len(glossary()) >= n_rows


@pytest.mark.parametrize("word", PAGE_WORDS)
def test_every_word_of_the_pages_is_explained(word: str) -> None:
    told = meaning(word)
    assert told.startswith(f"**{word}**: ")
    assert told.endswith(".")
    assert told in words_on_pages()


@pytest.mark.parametrize(
    "word",
    "latent SAE arm strict loose disorder S_in S_out FVU source control β".split()
    + "strength baseline scope schedule decay clamp ablate perplexity L0 sampling".split()
    + ["CE recovered", "KL divergence", "temperature", "top p", "seed"],
)
def test_the_words_that_were_unexplained_are_among_them(word: str) -> None:
    assert word in PAGE_WORDS


def test_names_that_share_a_row_are_found_apart() -> None:
    assert glossary()["input score"] == glossary()["S_in"]


def test_the_file_is_in_the_order_of_the_alphabet() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"), re.M)
    assert words == sorted(words, key=lambda word: word.lower().replace("β", "beta"))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Strength: 1 is as strong as on instructed prompts", ["strength"]),
        ("SAEs, one for each layer", ["SAE", "layer"]),
        ("Top p", ["top p"]),
        ("p, unsteered", ["p", "unsteered"]),
        ("Latent activation", ["latent activation"]),
        ("latent, Latents", ["latent"]),
        ("promotes", ["promote"]),
        ("Latent of /tmp/p/d", ["latent"]),
        ("Name", []),
    ],
)
def test_the_words_of_a_label_are_found(label: str, words: list[str]) -> None:
    assert words_in(label) == words


def test_a_field_is_explained_by_its_words_and_what_is_to_say_of_it_alone() -> None:
    assert explain("Seeds", "More.") == f"{meaning('seed')}  \nMore."
    assert explain("Name", "More.") == "More."
    assert explain("Name") is None


def test_columns_are_explained_by_their_headings() -> None:
    shown = explained_columns(["fvu", "L0", "name"], {"fvu": {"label": "FVU", "help": "Here."}})
    assert shown["fvu"] == {"label": "FVU", "help": f"{meaning('FVU')}  \nHere."}
    assert shown["L0"]["help"] == meaning("L0")
    assert shown["name"]["help"] is None
