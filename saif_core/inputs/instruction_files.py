"""Instructions in users' YAML files, checked as they enter."""

import re
from typing import Any, NamedTuple

import yaml

from saif_core.errors import EvaluatorError, UnknownNameError
from saif_core.inputs.text_files import (
    check_characters,
    decode_text,
    file_error,
    short_name,
)
from saif_core.parameters import describe_value
from saif_core.records.prompts import Instruction, PromptPair, Wording
from saif_core.registry import EVALUATORS, TARGET_RULES

MAX_INSTRUCTION_BYTES = 200_000
MAX_WORDINGS = 200
MAX_NAME_LETTERS = 64
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2}")
_FIELDS = (
    "name",
    "description",
    "evaluator",
    "evaluator_parameters",
    "target_rule",
    "wordings",
)


def load_instruction(text: str, *, source: str) -> Instruction:
    """The instruction in a user's YAML text.

    Args:
        text: YAML with name and wordings, and if wanted description, evaluator,
            evaluator_parameters and target_rule; without an evaluator nobody judges the texts.
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
    evaluator = _evaluator(fields, source)
    return Instruction(
        name=name,
        description=_text_field(fields, "description", source, default=""),
        evaluator=evaluator,
        evaluator_parameters=_evaluator_parameters(fields, evaluator, source),
        wordings=_wordings(fields, source),
        target_rule=_target_rule(fields, source),
    )


def check_instruction(instruction: Instruction, *, source: str) -> None:
    """Check an instruction that was made elsewhere by the rules for files.

    Args:
        source: what it is called in messages.

    Raises:
        PromptPairError: it breaks one; the message has the reason.
    """
    given = {"evaluator": instruction.evaluator} if instruction.evaluator else {}
    fields = {
        "name": instruction.name,
        **given,
        "evaluator_parameters": dict(instruction.evaluator_parameters),
        "target_rule": instruction.target_rule,
        "wordings": [{"text": one.text, "language": one.language} for one in instruction.wordings],
    }
    for number, wording in enumerate(instruction.wordings, start=1):
        check_characters(wording.text, source, number)
    load_instruction(yaml.safe_dump(fields, allow_unicode=True, width=1000), source=source)


class _Field(NamedTuple):
    line: int
    value: Any
    item_lines: tuple[int, ...]


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few of them, one inside another, unfold into gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases are not read; write the text out", event.start_mark
            )
        return super().compose_node(parent, index)


def _read_fields(text: str, source: str) -> dict[str, _Field]:
    """The entries of a YAML mapping with their lines."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = _PlainLoader(text)
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


def _evaluator(fields: dict[str, _Field], source: str) -> str:
    """The name of the evaluator; "" where none is given, so that nobody judges."""
    if "evaluator" not in fields or fields["evaluator"].value in (None, ""):
        return ""
    return _text_field(fields, "evaluator", source)


def _evaluator_parameters(fields: dict[str, _Field], name: str, source: str) -> dict[str, Any]:
    field = fields.get("evaluator_parameters")
    given = {} if field is None or field.value is None else field.value
    if field is not None and not isinstance(given, dict):
        raise file_error(source, field.line, "'evaluator_parameters' has to be a mapping of names")
    if not name:
        if field is not None and given:
            raise file_error(
                source, field.line, "'evaluator_parameters' are given, but no evaluator; name it"
            )
        return {}
    line = (field or fields["evaluator"]).line
    try:
        # An empty text is judged so that the evaluator itself checks the ranges of its parameters.
        EVALUATORS.bind(name, given)(PromptPair("", ""), "")
    except UnknownNameError as error:
        raise file_error(source, fields["evaluator"].line, str(error).rstrip(".")) from error
    except EvaluatorError as error:
        raise file_error(source, line, str(error).rstrip(".")) from error
    return dict(given)


def _target_rule(fields: dict[str, _Field], source: str) -> str:
    """The name of the rule that makes answers which follow; "" where none is given."""
    field = fields.get("target_rule")
    if field is None or field.value in (None, ""):
        return ""
    name = _text_field(fields, "target_rule", source)
    if name not in TARGET_RULES:
        known = ", ".join(TARGET_RULES.names())
        raise file_error(
            source, field.line, f"there is no target rule {describe_value(name)}; there are {known}"
        )
    return name


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
