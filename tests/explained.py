"""What the fields and tables of a page explain of the words in their labels and headings."""

import json
import re
from collections.abc import Iterator
from typing import Any

from streamlit.testing.v1 import AppTest

from app.presentation.glossary import PAGE_WORDS, meaning, words_in

_WORDS = {re.sub(r"\W", "_", word): word for word in PAGE_WORDS}
# What they do is told by pressing them, and what they open explains itself.
_NO_FIELDS = ("button", "download_button", "menu_button", "page_link", "expander")


def check_explained(at: AppTest, **expected: str) -> None:
    """Nothing on the page uses a word of the glossary without its meaning.

    Args:
        expected: labels or headings that have to stand there, by the word that each has to
            explain, with _ for what no name in Python holds; several with ``|`` between them.
    """
    helps = list(_helps(at))
    silent = [
        f"{label}: {word}"
        for label, told in helps
        for word in words_in(label)
        if meaning(word) not in told
    ]
    assert not silent, silent
    helps += [
        (node.proto.body, node.proto.help) for node in [*at.title, *at.subheader, *at.markdown]
    ]
    for name, labels in expected.items():
        told_of = meaning(_WORDS[name])
        for begin in labels.split("|"):
            assert any(label.startswith(begin) and told_of in told for label, told in helps), begin


def _helps(at: AppTest) -> Iterator[tuple[str, str]]:
    """The label of every field, and the heading of every column, each with its help."""
    for node in [*at.main, *at.sidebar]:
        proto: Any = getattr(node, "proto", None)
        if node.type in ("arrow_data_frame", "dataframe"):
            yield from _columns(node)
        elif node.type == "popover":
            yield proto.popover.label, proto.popover.help
        elif node.type not in _NO_FIELDS and {"label", "help"} <= _field_names(proto):
            yield proto.label, proto.help


def _field_names(proto: Any) -> set[str]:
    descriptor = getattr(proto, "DESCRIPTOR", None)
    return set(descriptor.fields_by_name) if descriptor else set()


def _columns(frame: Any) -> Iterator[tuple[str, str]]:
    configured = json.loads(frame.proto.columns or "{}")
    for name in frame.value.columns:
        column = configured.get(name, {})
        yield column.get("label") or name, column.get("help") or ""
