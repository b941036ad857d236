"""Prompt pairs: contents without (negative) and with (positive) an instruction.

Instructions are YAML, pairs and contents JSONL or CSV; every user's file is checked as it enters.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import product
from typing import Any, NamedTuple, get_args

import yaml

from saif_core.errors import EvaluatorError, PromptPairError, UnknownNameError
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
from saif_core.records.texts import Instruction, InstructionPosition, PromptPair, Wording
from saif_core.registry import EVALUATORS, describe_value

MAX_INSTRUCTION_BYTES = 200_000
MAX_WORDINGS = 200
MAX_NAME_LETTERS = 64
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2}")
_FIELDS = ("name", "description", "evaluator", "evaluator_parameters", "wordings")


def shipped_instructions() -> dict[str, Instruction]:
    """The instructions that come with SAIF, by name, in alphabetical order."""
    return dict(_shipped_instructions())


def shipped_contents() -> list[str]:
    """The contents that come with SAIF, in their fixed order."""
    return list(_shipped_contents())


def load_instruction(text: str, *, source: str) -> Instruction:
    """The instruction in a user's YAML text.

    Args:
        text: YAML with name, evaluator and wordings, and if wanted description and
            evaluator_parameters.
        source: what the text is called in messages, such as its file name.

    Raises:
        PromptPairError: the text is no instruction; the message has the line and the reason.
    """
    source = short_name(source)
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_INSTRUCTION_BYTES:
        raise file_error(
            source, None, f"an instruction has at most {MAX_INSTRUCTION_BYTES // 1000} kB of text"
        )
    fields = _read_fields(decode_text(encoded, source), source)
    name = _text_field(fields, "name", source)
    if len(name) > MAX_NAME_LETTERS or not _SLUG.fullmatch(name):
        raise file_error(
            source,
            fields["name"].line,
            f"the name {describe_value(name)} cannot be used; take up to {MAX_NAME_LETTERS} small "
            "letters and digits, with single hyphens between them",
        )
    evaluator = _text_field(fields, "evaluator", source)
    return Instruction(
        name=name,
        description=_text_field(fields, "description", source, default=""),
        evaluator=evaluator,
        evaluator_parameters=_evaluator_parameters(fields, evaluator, source),
        wordings=_wordings(fields, source),
    )


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


class _Field(NamedTuple):
    line: int
    value: Any
    item_lines: tuple[int, ...]


def _read_fields(text: str, source: str) -> dict[str, _Field]:
    """The entries of a YAML mapping with their lines."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise file_error(source, 1, f"this is no instruction; give {', '.join(_FIELDS)}")
        return _construct_fields(loader, node, source)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise file_error(source, line, "a character of the text is not valid in YAML") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise file_error(
            source,
            mark.line + 1 if mark else None,
            f"this is not valid YAML ({error.problem or error.context})",
        ) from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise file_error(source, None, "the YAML cannot be read; write it more simply") from error
    finally:
        if loader is not None:
            loader.dispose()


def _construct_fields(
    loader: yaml.SafeLoader, node: yaml.MappingNode, source: str
) -> dict[str, _Field]:
    fields: dict[str, _Field] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.value not in _FIELDS:
            shown = describe_value(key.value) if isinstance(key, yaml.ScalarNode) else "a list"
            raise file_error(
                source, line, f"there is no field {shown}; the fields are: {', '.join(_FIELDS)}"
            )
        if key.value in fields:
            raise file_error(source, line, f"the field '{key.value}' is there twice")
        items = value.value if isinstance(value, yaml.SequenceNode) else []
        lines = tuple(item.start_mark.line + 1 for item in items)
        fields[key.value] = _Field(line, loader.construct_document(value), lines)
    return fields


def _text_field(
    fields: dict[str, _Field], name: str, source: str, *, default: str | None = None
) -> str:
    if name not in fields:
        if default is not None:
            return default
        raise file_error(source, None, f"the field '{name}' is missing; add it")
    return _text(fields[name].value, f"'{name}'", source, fields[name].line)


def _text(value: Any, name: str, source: str, line: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise file_error(
            source,
            line,
            f"{name} has to be a text, but is {describe_value(value)}; write it in double quotes",
        )
    check_characters(value, source, line)
    return value.strip()


def _evaluator_parameters(fields: dict[str, _Field], name: str, source: str) -> dict[str, Any]:
    field = fields.get("evaluator_parameters")
    given = {} if field is None or field.value is None else field.value
    line = (field or fields["evaluator"]).line
    if not isinstance(given, dict):
        raise file_error(source, line, "'evaluator_parameters' has to be a mapping of names")
    try:
        # An empty text is judged so that the evaluator itself checks the ranges of its parameters.
        EVALUATORS.bind(name, given)(PromptPair("", ""), "")
    except UnknownNameError as error:
        raise file_error(source, fields["evaluator"].line, str(error).rstrip(".")) from error
    except EvaluatorError as error:
        raise file_error(source, line, str(error).rstrip(".")) from error
    return dict(given)


def _wordings(fields: dict[str, _Field], source: str) -> tuple[Wording, ...]:
    if "wordings" not in fields:
        raise file_error(source, None, "the field 'wordings' is missing; add at least one wording")
    line, value, item_lines = fields["wordings"]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_WORDINGS:
        raise file_error(
            source, line, f"'wordings' has to be a list of 1 to {MAX_WORDINGS} wordings"
        )
    return tuple(
        _wording(item, source, item_line) for item, item_line in zip(value, item_lines, strict=True)
    )


def _wording(item: Any, source: str, line: int) -> Wording:
    if isinstance(item, str):
        return Wording(_text(item, "a wording", source, line))
    if not isinstance(item, dict) or "text" not in item or set(item) - {"text", "language"}:
        raise file_error(source, line, "a wording has to be a text, or to have text and language")
    language = item.get("language", "en")
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise file_error(
            source,
            line,
            f"the language {describe_value(language)} is not known; write a code of two letters in "
            'double quotes, such as "en"',
        )
    return Wording(_text(item["text"], "'text'", source, line), language)


@lru_cache(maxsize=1)
def _shipped_instructions() -> dict[str, Instruction]:
    folder = files("saif_core") / "defaults" / "instructions"
    found = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda f: f.name
    )
    loaded = (load_instruction(f.read_text(encoding="utf-8"), source=f.name) for f in found)
    return {instruction.name: instruction for instruction in loaded}


@lru_cache(maxsize=1)
def _shipped_contents() -> tuple[str, ...]:
    file = files("saif_core") / "defaults" / "contents.jsonl"
    return tuple(load_contents(file.read_bytes(), filename=file.name))
