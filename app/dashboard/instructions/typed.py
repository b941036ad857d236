"""An instruction that is typed: its wordings, one a line, and who judges the answers.

What is typed follows a person across the pages, and is kept with the work, so that it survives a
reload.
"""

import re
import unicodedata
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.kept_work import keep, read_part
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain, meaning
from saif_core.errors import PromptPairError
from saif_core.inputs.instruction_files import MAX_NAME_LETTERS, check_instruction
from saif_core.inputs.prompt_pairs import english_wordings
from saif_core.inputs.shipped import shipped_instructions
from saif_core.judging.languages import language_of
from saif_core.records.prompts import Instruction, Wording
from saif_core.registry import EVALUATORS

MAX_TYPED = 4000
# A few words are easily taken for another language; below this a wording counts as English.
SURE_OF_LANGUAGE = 0.6
NOBODY = ""
_KEY, _FIELDS = "typed_instruction", "typed_fields"


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
            tuple(_wording(text) for text in self.wordings),
        )
        check_instruction(made, source="what you typed")
        return made


def typed_of(instruction: Instruction) -> Typed:
    """What would be typed for an instruction: its English wordings and its evaluator."""
    lines = "\n".join(english_wordings(instruction))
    return Typed(lines, instruction.evaluator, dict(instruction.evaluator_parameters))


def typed() -> Typed:
    """What this browser session has typed; at first what was kept."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = read_part(_KEY, _read, Typed())
    found: Typed = st.session_state[_KEY]
    return found


def keep_typed(value: Typed, key: str) -> None:
    """Put something into the box.

    Args:
        key: of the box that is on the page, which then shows it.
    """
    _hold(value)
    st.session_state.pop(f"{key}_say", None)
    st.session_state.pop(f"{key}_judge", None)
    # New fields, as those that are drawn keep what was in them.
    st.session_state[_FIELDS] = st.session_state.get(_FIELDS, 0) + 1


def draw_box(key: str, *, label: str, height: int = 100) -> None:
    """Draw the box for the wordings.

    Args:
        key: begins the widget key.
        label: of the box.
    """
    now = typed()
    st.session_state.setdefault(f"{key}_say", now.text)
    text = st.text_area(
        label,
        height=height,
        key=f"{key}_say",
        placeholder="Answer as a pirate.\nReply the way a pirate would.",
        help=explain(
            "instruction, wording, content",
            "One wording, or several that mean the same, one a line. Each is put to every content.",
        ),
    )
    if len(text or "") > MAX_TYPED:
        st.caption(
            f":material/info: {len(text or ''):,} characters were typed; the first {MAX_TYPED:,} "
            "are used."
        )
    _hold(replace(now, text=(text or "")[:MAX_TYPED]))


def draw_judge(key: str) -> None:
    """Draw who judges the answers, and what that evaluator takes."""
    now = typed()
    names = [NOBODY, *EVALUATORS.names()]
    told = "  \n".join(f"{one.name}: {escape_markdown(one.help)}" for one in EVALUATORS)
    st.session_state.setdefault(f"{key}_judge", now.evaluator if now.evaluator in names else NOBODY)
    chosen = (
        st.selectbox(
            "Who judges the answers?",
            names,
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
            EVALUATORS.get(chosen).parameters,
            key=f"{key}_judge_{chosen}_{st.session_state.get(_FIELDS, 0)}",
            values=known,
        )
    _hold(replace(now, evaluator=chosen, parameters=given))


def choose_instruction(instruction: Instruction) -> None:
    """Make an instruction the one in hand, and keep it if it is a person's own."""
    if shipped_instructions().get(instruction.name) != instruction:
        work().uploaded[instruction.name] = instruction
    work().instruction = instruction.name


def _read(part: Any) -> Typed:
    """What was kept; without an evaluator that is not here any more."""
    found = Typed(str(part["text"])[:MAX_TYPED])
    evaluator = part["evaluator"]
    if evaluator not in EVALUATORS.names():
        return found
    return replace(found, evaluator=evaluator, parameters=dict(part["parameters"]))


def _hold(value: Typed) -> None:
    st.session_state[_KEY] = value
    keep(_KEY, asdict(value) if value != Typed() else None)


def _wording(text: str) -> Wording:
    """A typed wording in the language that it is clearly in, else in English."""
    return Wording(text, language_of(text, above=SURE_OF_LANGUAGE) or "en")


def _slug(wording: str) -> str:
    """A name for a typed instruction, unlike that of a shipped one."""
    plain = unicodedata.normalize("NFKD", wording).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_NAME_LETTERS].strip("-") or "instruction"
    if name not in shipped_instructions():
        return name
    return f"my-{name}"[:MAX_NAME_LETTERS].strip("-")
