"""What is asked: instructions in several wordings, prompt pairs, and turns of a chat."""

from dataclasses import dataclass
from typing import Any, Literal

from saif_core.records.as_json import Record

InstructionPosition = Literal["after", "before"]


@dataclass(frozen=True)
class Wording(Record):
    """One way to say an instruction; ``language`` is an ISO 639-1 code."""

    text: str
    language: str = "en"


@dataclass(frozen=True)
class Instruction(Record):
    """An instruction in several wordings, and how an answer to it is judged.

    Attributes:
        evaluator: "" where nobody judges.
        target_rule: makes an answer that follows of any answer, for what is trained; "" for none.
    """

    name: str
    description: str
    evaluator: str
    evaluator_parameters: dict[str, Any]
    wordings: tuple[Wording, ...]
    target_rule: str = ""

    @property
    def translates_into(self) -> str:
        """ISO 639-1 code of the language that English contents are to be put into; "" for none."""
        language = str(self.evaluator_parameters.get("language", ""))
        return language if self.evaluator == "language" and language != "en" else ""


@dataclass(frozen=True)
class PromptPair(Record):
    """The same content with (positive) and without (negative) the instruction, as plain text."""

    positive: str
    negative: str
    content: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Turn(Record):
    """One message of a chat."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class PromptView(Record):
    """A prompt as the model sees it, token by token; special tokens are flagged."""

    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    token_ids: tuple[int, ...]
