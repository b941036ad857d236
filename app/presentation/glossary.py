"""What the words on the pages mean: the one glossary, which the documents show too."""

import re
from functools import cache
from pathlib import Path

import saif_core

GLOSSARY = Path(saif_core.__file__).parent / "defaults" / "glossary.md"
# The words that a reader meets on the pages, in the order of the flow; the others are for code.
PAGE_WORDS = (
    "instruction",
    "wording",
    "content",
    "prompt pair",
    "SAE",
    "latent",
    "reading position",
    "selector",
    "score",
    "basket",
    "coefficient",
    "β",
    "strength",
    "steering vector",
    "steering method",
    "source",
    "schedule",
    "arm",
    "unsteered",
    "prompted",
    "control",
    "evaluator",
    "strict",
    "loose",
    "disorder",
    "setting",
    "logit lens",
    "S_in",
    "S_out",
    "density",
    "FVU",
    "CE recovered",
    "L0",
    "index",
)
_ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+?) \|[^|]*\|$", re.M)


@cache
def glossary() -> dict[str, str]:
    """Every word with its meaning, as Markdown; "input score, S_in" is found under both."""
    found: dict[str, str] = {}
    for words, meaning in _ROW.findall(GLOSSARY.read_text(encoding="utf-8")):
        found |= {word.strip(): meaning for word in words.split(",")}
    return found


def meaning(word: str) -> str:
    """What a word means, as a sentence of Markdown for the help of a field.

    Raises:
        KeyError: the glossary does not know it.
    """
    told = glossary()[word]
    return f"**{word}**: {told}."


def words_on_pages() -> str:
    """All words that the pages use, each with its meaning, as Markdown."""
    return "\n".join(f"- {meaning(word)}" for word in PAGE_WORDS)
