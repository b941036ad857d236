"""Prompt pairs: contents without (negative) and with (positive) an instruction.

Instructions are YAML, pairs and contents JSONL or CSV; every user's file is checked as it enters.
"""

from collections.abc import Sequence
from itertools import product
from typing import get_args

from saif_core.errors import PromptPairError
from saif_core.inputs.text_files import (
    Row,
    check_characters,
    check_row_count,
    decode_text,
    file_error,
    numbered_lines,
    read_rows,
    short_name,
    text_cell,
)
from saif_core.parameters import describe_value
from saif_core.records.prompts import Instruction, InstructionPosition, PromptPair


def load_pairs(data: bytes, *, filename: str) -> list[PromptPair]:
    """The pairs in a user's .jsonl or .csv file, in its order, repeated ones kept.

    A row has the columns positive and negative, which are taken as they are, or content and
    instruction, where the instruction follows the content. Other columns are left aside.

    Args:
        data: the file's bytes, UTF-8.
        filename: decides the kind of file and stands in messages.

    Raises:
        PromptPairError: the file cannot be used; the message has the line and the reason.
    """
    source = short_name(filename)
    return [_pair(row, source) for row in read_rows(data, filename)]


def load_contents(data: bytes, *, filename: str) -> list[str]:
    """The contents in a user's file, in its order, repeated ones kept.

    Args:
        data: the file's bytes, UTF-8.
        filename: .txt holds one content a line; .jsonl and .csv have a column text or content.

    Raises:
        PromptPairError: the file cannot be used; the message has the line and the reason.
    """
    source = short_name(filename)
    if not filename.lower().endswith(".txt"):
        return [
            text_cell(row, "content" if "content" in row.cells else "text", source)
            for row in read_rows(data, filename)
        ]
    contents: list[str] = []
    for line, content in numbered_lines(decode_text(data, source)):
        check_characters(content, source, line)
        contents.append(content)
        check_row_count(len(contents), line, source)
    return contents


def load_references(data: bytes, *, filename: str) -> dict[str, dict[str, str]]:
    """Translations of the contents in a user's file: {language: {content: its translation}}.

    A row of a .jsonl file may have the key references, an object with an ISO 639-1 code for each
    translation: ``{"text": ..., "references": {"fr": ..., "de": ...}}``. Other files have none. Of
    repeated contents, the first one's translations count.

    Raises:
        PromptPairError: the file cannot be used; the message has the line and the reason.
    """
    found: dict[str, dict[str, str]] = {}
    if not filename.lower().endswith(".jsonl"):
        return found
    source = short_name(filename)
    for row in read_rows(data, filename):
        references = row.cells.get("references")
        if references is None:
            continue
        if not isinstance(references, dict):
            raise file_error(
                source, row.line, "'references' has to be an object of languages and translations"
            )
        content = text_cell(row, "content" if "content" in row.cells else "text", source)
        translations = Row(row.line, references)
        for language in references:
            text = text_cell(translations, language, source)
            found.setdefault(language, {}).setdefault(content, text)
    return found


def make_pairs(
    instruction: Instruction,
    contents: Sequence[str],
    *,
    position: InstructionPosition = "after",
    n_contents: int | None = None,
    wordings: Sequence[str] | None = None,
) -> tuple[PromptPair, ...]:
    """Every content with every wording, all wordings of a content in a row.

    Args:
        instruction: gives the wordings.
        contents: the texts that the instruction is put to.
        position: whether the instruction stands after or before the content.
        n_contents: how many contents to take, from the first on; None takes all.
        wordings: texts to use instead of the instruction's own; None takes all of these.

    Raises:
        PromptPairError: there is no content or wording, one is blank, or more contents are asked
            for than there are.
    """
    if position not in get_args(InstructionPosition):
        raise PromptPairError(
            f"The instruction cannot stand {describe_value(position)} the content; choose 'after' "
            "or 'before'."
        )
    if n_contents is not None and not 1 <= n_contents <= len(contents):
        raise PromptPairError(
            f"{n_contents} contents were asked for, but there are {len(contents)}; choose a "
            f"number from 1 to {len(contents)}."
        )
    own = [wording.text for wording in instruction.wordings]
    chosen = _stripped(contents[:n_contents], "content")
    texts = _stripped(own if wordings is None else wordings, "wording")
    return tuple(_join(content, text, position) for content, text in product(chosen, texts))


def english_wordings(instruction: Instruction) -> list[str]:
    """The wordings in English; all of an instruction that has none."""
    texts = [one.text for one in instruction.wordings if one.language == "en"]
    return texts or [one.text for one in instruction.wordings]


def join_instruction(content: str, instruction: str, position: InstructionPosition) -> str:
    """A content with an instruction after or before it."""
    parts = (content, instruction) if position == "after" else (instruction, content)
    return " ".join(parts)


def _join(content: str, instruction: str, position: InstructionPosition) -> PromptPair:
    positive = join_instruction(content, instruction, position)
    return PromptPair(positive, content, content, instruction)


def _stripped(texts: Sequence[str], kind: str) -> list[str]:
    found = [text.strip() for text in texts]
    if not found:
        raise PromptPairError(f"There is no {kind} to make pairs from; give at least one.")
    if "" in found:
        raise PromptPairError(
            f"The {kind} number {found.index('') + 1} is blank; fill it or leave it out."
        )
    return found


def _pair(row: Row, source: str) -> PromptPair:
    cells = row.cells
    if not {"positive", "negative"} & set(cells):
        if not {"content", "instruction"} & set(cells):
            raise file_error(
                source,
                row.line,
                "there are no columns 'content' and 'instruction', or 'positive' and 'negative'",
            )
        return _join(
            text_cell(row, "content", source), text_cell(row, "instruction", source), "after"
        )
    positive, negative = (text_cell(row, name, source) for name in ("positive", "negative"))
    if positive == negative:
        raise file_error(
            source,
            row.line,
            "'positive' and 'negative' are the same text; put the instruction into 'positive' only",
        )
    content, instruction = (
        text_cell(row, name, source) if cells.get(name) else ""
        for name in ("content", "instruction")
    )
    return PromptPair(positive, negative, content, instruction)
