"""What the words on the pages mean: the one glossary, which the documents show too."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import saif_core

GLOSSARY = Path(saif_core.__file__).parent / "defaults" / "glossary.md"
# The words that a reader meets on the pages, in the order of the flow; the others are for code.
PAGE_WORDS = (
    "token",
    "gate",
    "layer",
    "residual stream",
    "instruction",
    "wording",
    "content",
    "prompt pair",
    "chat template",
    "SAE",
    "latent",
    "latent activation",
    "promote",
    "logit",
    "reading position",
    "selector",
    "ranking",
    "score",
    "basket",
    "coefficient",
    "β",
    "strength",
    "decoder direction",
    "steering vector",
    "steering method",
    "clamp",
    "ablate",
    "source",
    "schedule",
    "scope",
    "decay",
    "sampling",
    "temperature",
    "top p",
    "seed",
    "arm",
    "baseline",
    "unsteered",
    "prompted",
    "control",
    "log-probability",
    "KL divergence",
    "evaluator",
    "useful",
    "about its content",
    "chrF",
    "strict",
    "loose",
    "disorder",
    "perplexity",
    "distinct-2",
    "setting",
    "cell",
    "interval",
    "p",
    "corpus",
    "context",
    "logit lens",
    "cosine",
    "flow",
    "d",
    "atom",
    "S_in",
    "S_out",
    "density",
    "FVU",
    "explained variance",
    "CE recovered",
    "L0",
    "index",
)
_ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+?) \|[^|]*\|$", re.M)
_BY_FOLDED = {word.casefold(): word for word in PAGE_WORDS}
_LONGEST_FIRST = "|".join(re.escape(word) for word in sorted(PAGE_WORDS, key=len, reverse=True))
# Part of a path or of a compound is another word.
_USED = re.compile(rf"(?<![\w/-])({_LONGEST_FIRST})s?(?![\w/-])", re.I)


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


def words_in(text: str) -> list[str]:
    """The page words that a text uses, in one or in many, in the order of the text.

    Of words that hold each other the longest counts: "top p" is not "p".
    """
    return list(dict.fromkeys(_found(text)))


def explain(text: str, more: str = "") -> str | None:
    """Help of whatever stands under a text: what the words in it mean, then what else there is.

    Args:
        text: the label, the heading, or other words that stand there.
        more: what is to say of this place alone.

    Returns:
        None where there is nothing to say, as Streamlit takes it.
    """
    return "  \n".join(filter(None, [*map(meaning, words_in(text)), more])) or None


def _found(text: str) -> Iterator[str]:
    for match in _USED.finditer(text):
        yield _BY_FOLDED[match[1].casefold()]


def words_on_pages() -> str:
    """All words that the pages use, each with its meaning, as Markdown."""
    return "\n".join(f"- {meaning(word)}" for word in PAGE_WORDS)
