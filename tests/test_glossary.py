import re

import pytest

from app.presentation.glossary import GLOSSARY, PAGE_WORDS, glossary, meaning, words_on_pages


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
    + ["CE recovered"],
)
def test_the_words_that_were_unexplained_are_among_them(word: str) -> None:
    assert word in PAGE_WORDS


def test_names_that_share_a_row_are_found_apart() -> None:
    assert glossary()["input score"] == glossary()["S_in"]
