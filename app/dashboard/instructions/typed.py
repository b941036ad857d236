"""An instruction that is typed: its wordings, one a line, and who judges the answers.

What is typed follows a person across the pages and stands in the address, so that it survives a
reload.
"""

import json
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.work import publish_parameter, work
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import meaning
from saif_core.errors import PromptPairError, SaifError
from saif_core.inputs.instruction_files import MAX_NAME_LETTERS, check_instruction
from saif_core.inputs.prompt_pairs import english_wordings
from saif_core.inputs.shipped import shipped_instructions
from saif_core.records.prompts import Instruction, Wording
from saif_core.registry import EVALUATORS

MAX_TYPED = 4000
# An address may be longer, but browsers and mail cut it.
MAX_IN_ADDRESS = 3000
NOBODY = ""
SAY, JUDGE, JUDGE_WITH = "say", "judge", "judge_with"
_KEY = "typed_instruction"


@dataclass(frozen=True)
class Typed:
    """What stands in the box.

    Attributes:
        text: one wording a line.
        evaluator: "" where nobody judges.
    """

    text: str = ""
    evaluator: str = NOBODY
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def wordings(self) -> tuple[str, ...]:
        """The lines that are not empty, each once."""
        lines = (line.strip() for line in self.text.splitlines())
        return tuple(dict.fromkeys(line for line in lines if line))

    def instruction(self) -> Instruction:
        """The instruction that was typed; a shipped one that says the same.

        Raises:
            PromptPairError: there is no wording, or one cannot be used.
            SaifError: the evaluator does not exist, or does not take the parameters.
        """
        if not self.wordings:
            raise PromptPairError("Nothing is typed yet; say what the model should do.")
        for shipped in shipped_instructions().values():
            if self == typed_of(shipped):
                return shipped
        made = Instruction(
            _slug(self.wordings[0]),
            "",
            self.evaluator,
            dict(self.parameters),
            tuple(Wording(text) for text in self.wordings),
        )
        check_instruction(made, source="what you typed")
        return made


def typed_of(instruction: Instruction) -> Typed:
    """What would be typed for an instruction: its English wordings and its evaluator."""
    lines = "\n".join(english_wordings(instruction))
    return Typed(lines, instruction.evaluator, dict(instruction.evaluator_parameters))


def typed() -> Typed:
    """What this browser session has typed; at first what the address holds."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = _from_address()
    found: Typed = st.session_state[_KEY]
    return found


def keep_typed(value: Typed, key: str = "") -> None:
    """Put something into the box.

    Args:
        key: of the box that is on the page, which then shows it.
    """
    st.session_state[_KEY] = value
    if key:
        st.session_state[f"{key}_say"] = value.text
        st.session_state[f"{key}_judge"] = value.evaluator
        for name, given in value.parameters.items():
            st.session_state[f"{key}_judge_{value.evaluator}_{name}"] = given


def draw_box(key: str, *, label: str, height: int = 100) -> None:
    """Draw the box for the wordings.

    Args:
        key: begins the widget key.
        label: of the box.
    """
    now = typed()
    text = st.text_area(
        label,
        now.text,
        height=height,
        key=f"{key}_say",
        placeholder="Answer as a pirate.\nReply the way a pirate would.",
        help="One wording, or several that mean the same, one a line. Each is put to every "
        "content.",
    )
    if len(text or "") > MAX_TYPED:
        st.caption(
            f":material/info: {len(text or ''):,} characters were typed; the first {MAX_TYPED:,} "
            "are used."
        )
    st.session_state[_KEY] = replace(now, text=(text or "")[:MAX_TYPED])
    if len(typed().text) > MAX_IN_ADDRESS:
        st.caption(":material/info: Too long for the address: a reload of the page forgets it.")


def draw_judge(key: str) -> None:
    """Draw who judges the answers, and what that evaluator takes."""
    now = typed()
    names = [NOBODY, *EVALUATORS.names()]
    told = "  \n".join(f"{one.name}: {escape_markdown(one.help)}" for one in EVALUATORS)
    chosen = (
        st.selectbox(
            "Who judges the answers?",
            names,
            names.index(now.evaluator) if now.evaluator in names else 0,
            key=f"{key}_judge",
            format_func=lambda name: name or "no judge: show texts",
            help=f"{meaning('evaluator')}  \n{told}",
        )
        or NOBODY
    )
    given: dict[str, Any] = {}
    if chosen:
        known = now.parameters if chosen == now.evaluator else {}
        given = draw_parameters(
            EVALUATORS.get(chosen).parameters, key=f"{key}_judge_{chosen}", values=known
        )
    st.session_state[_KEY] = replace(now, evaluator=chosen, parameters=given)


def choose_instruction(instruction: Instruction) -> None:
    """Make an instruction the one in hand, and keep it if it is a person's own."""
    if shipped_instructions().get(instruction.name) != instruction:
        work().uploaded[instruction.name] = instruction
    work().instruction = instruction.name


def take_up_typed() -> None:
    """Offer what the address holds again, if it is what the work in hand is about."""
    if work().instruction_record() is None and typed().wordings:
        with suppress(SaifError):
            made = typed().instruction()
            if made.name == work().instruction:
                work().uploaded[made.name] = made


def publish_typed() -> None:
    """Have what is typed in the address."""
    now = typed()
    fits = len(now.text) <= MAX_IN_ADDRESS
    with_values = json.dumps(now.parameters, ensure_ascii=False) if now.parameters else ""
    publish_parameter(SAY, now.text if fits else "")
    publish_parameter(JUDGE, now.evaluator)
    publish_parameter(JUDGE_WITH, with_values if len(with_values) <= MAX_IN_ADDRESS else "")


def _from_address() -> Typed:
    query = st.query_params
    evaluator = query.get(JUDGE, NOBODY)
    found = Typed(query.get(SAY, "")[:MAX_TYPED])
    if evaluator not in EVALUATORS.names():
        return found
    parameters: Any = {}
    with suppress(ValueError, RecursionError):
        parameters = json.loads(query.get(JUDGE_WITH, "")[:MAX_IN_ADDRESS] or "{}")
    known = {one.name for one in EVALUATORS.get(evaluator).parameters}
    given = parameters if isinstance(parameters, dict) else {}
    kept = {name: value for name, value in given.items() if name in known}
    return replace(found, evaluator=evaluator, parameters=kept)


def _slug(wording: str) -> str:
    """A name for a typed instruction, unlike that of a shipped one."""
    plain = unicodedata.normalize("NFKD", wording).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_NAME_LETTERS].strip("-") or "instruction"
    if name not in shipped_instructions():
        return name
    return f"my-{name}"[:MAX_NAME_LETTERS].strip("-")
