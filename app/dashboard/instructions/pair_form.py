"""The form that chooses prompt pairs: an instruction, shipped or typed, or a person's own pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import streamlit as st
import yaml

from app.dashboard.fields.url_fields import publish, seed_choice, seed_number
from app.dashboard.instructions.pair_grid import draw_pair_grid
from app.dashboard.instructions.typed import draw_box, draw_judge, typed
from app.dashboard.kept_work import keep, read_part
from app.dashboard.messages import shown
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain, meaning
from saif_core.errors import PromptPairError
from saif_core.inputs.instruction_files import MAX_INSTRUCTION_BYTES, load_instruction
from saif_core.inputs.prompt_pairs import english_wordings, load_contents, make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.inputs.text_files import MAX_MB
from saif_core.records.prompts import Instruction, InstructionPosition, PromptPair

T = TypeVar("T")
Source = Literal["instruction", "typed", "file"]
Wordings = Literal["english", "all", "first", "chosen"]
_SOURCES: dict[Source, str] = {
    "instruction": "An instruction",
    "typed": "What I type",
    "file": "My own pairs",
}
_WORDINGS: dict[Wordings, str] = {
    "english": "English",
    "all": "All",
    "first": "First only",
    "chosen": "Choose",
}
DEFAULT_CONTENTS = 8
_PASTED, _KEPT = "pasted", "your contents"
# Uploads are held here, not in their widgets, which forget them when the page is left.
_CONTENTS, _INSTRUCTION = "own_contents", "own_instruction_file"


@dataclass(frozen=True)
class PairChoice:
    """Pairs ready for a ranking, and the name of what they are about.

    Attributes:
        record: the instruction whole; None where the pairs are a person's own.
    """

    instruction: str
    pairs: tuple[PromptPair, ...]
    record: Instruction | None = None


@dataclass(frozen=True)
class _Upload(Generic[T]):
    file_id: str
    name: str
    value: list[T]


def draw_pair_choice() -> PairChoice | None:
    """Draw the form; None while what it holds makes no pairs, which it has then said why."""
    seed_choice("source", "instruction", get_args(Source))
    source = st.segmented_control(
        "Prompt pairs from",
        get_args(Source),
        required=True,
        format_func=lambda option: _SOURCES[option],
        key="source",
        persist_state="session",
        help=explain("prompt pairs"),
    )
    publish("source", "instruction")
    choice: PairChoice | None = None
    with shown():
        choice = _DRAWN[source or "instruction"]()
    return choice


def uploaded_contents() -> list[str] | None:
    """The contents uploaded on the Instructions page; None while the shipped ones are used."""
    own = _own_contents()
    return None if own is None else own.value


def _own_contents() -> "_Upload[str] | None":
    """Pasted or uploaded contents; at first what was kept."""
    if _CONTENTS not in st.session_state:
        found = read_part(_CONTENTS, lambda part: [str(text) for text in part], [])
        st.session_state[_CONTENTS] = _Upload("", _KEPT, found) if found else None
    own: _Upload[str] | None = st.session_state[_CONTENTS]
    return own


def _draw_own_pairs() -> PairChoice | None:
    choice = draw_pair_grid()
    if choice is None:
        return None
    name, pairs = choice
    # By its name a ranking is known to be of an instruction, or of pairs.
    taken = {**shipped_instructions(), **work().uploaded}
    return PairChoice(f"{name} (pairs)" if name in taken else name, pairs)


def _draw_typed() -> PairChoice | None:
    draw_box("page", label="What should the model do?")
    draw_judge("page")
    if not typed().wordings:
        st.caption("Type one wording or several, one a line; the prompts then appear here.")
        return None
    instruction = typed().instruction()
    contents, n_contents, position = _draw_content_choice()
    pairs = make_pairs(instruction, contents, position=position, n_contents=n_contents)
    return PairChoice(instruction.name, pairs, instruction)


def _draw_instruction() -> PairChoice:
    instruction = draw_instruction_choice("instruction_choice", about=meaning("instruction"))
    if instruction.description:
        st.caption(escape_markdown(instruction.description))
    wordings = _draw_wordings(instruction)
    contents, n_contents, position = _draw_content_choice()
    _draw_own_instruction(instruction)
    pairs = make_pairs(
        instruction, contents, position=position, n_contents=n_contents, wordings=wordings
    )
    return PairChoice(instruction.name, pairs, instruction)


_DRAWN: dict[str, Callable[[], PairChoice | None]] = {
    "instruction": _draw_instruction,
    "typed": _draw_typed,
    "file": _draw_own_pairs,
}


def _draw_content_choice() -> tuple[list[str], int, InstructionPosition]:
    own = _own_contents()
    contents = shipped_contents() if own is None else own.value
    n_contents, position = _draw_contents(len(contents), "shipped" if own is None else "own")
    with st.expander("Contents of your own", key="contents_expander", icon=":material/upload:"):
        _draw_own_contents()
    return contents, n_contents, position


def _draw_own_contents() -> None:
    before = _own_contents()
    with st.form("paste_contents", border=False):
        text = st.text_area(
            "Contents, one a line", height=100, key="contents_text", help=meaning("content")
        )
        if st.form_submit_button("Use these", icon=":material/check:"):
            with shown():
                found = load_contents((text or "").encode(), filename=f"{_PASTED}.txt")
                if not found:
                    raise PromptPairError("There is no content in the box; write one a line.")
                st.session_state[_CONTENTS] = _Upload("", _PASTED, found)
    now = _draw_upload(
        _CONTENTS,
        "Or a file: TXT (one per line), CSV or JSONL",
        ["txt", "csv", "jsonl"],
        load_contents,
        about="CSV and JSONL need a column text or content.",
    )
    if now is not before:
        keep(_CONTENTS, None if now is None else now.value)
        # How many contents there are was drawn above.
        st.rerun()


def draw_instruction_choice(key: str, *, about: str | None = None) -> Instruction:
    """Draw the shipped and the uploaded instructions; the chosen one is that of the work in hand.

    Args:
        about: help of the field.
    """
    own = set(work().uploaded)
    known = {**shipped_instructions(), **work().uploaded}

    def choose() -> None:
        work().instruction = st.session_state[key]

    # A ranking of somebody's own pairs leaves a name here that is no instruction.
    if work().instruction in known:
        st.session_state[key] = work().instruction
    elif st.session_state.get(key) not in known:
        st.session_state[key] = next(iter(known))
    name = st.selectbox(
        "Instruction",
        list(known),
        key=key,
        on_change=choose,
        format_func=lambda name: f"{name} (yours)" if name in own else name,
        help=about,
    )
    return known[name]


def _draw_wordings(instruction: Instruction) -> list[str]:
    texts = [wording.text for wording in instruction.wordings]
    n_foreign = sum(wording.language != "en" for wording in instruction.wordings)
    foreign = f", {n_foreign} not English" if n_foreign else ""
    seed_choice("wordings", "english", get_args(Wordings))
    how = st.segmented_control(
        f"Wordings ({len(texts)}{foreign})",
        get_args(Wordings),
        required=True,
        format_func=lambda option: _WORDINGS[option],
        key="wordings",
        persist_state="session",
        help=explain(
            "wording, content",
            "Every chosen wording is put to every content. English ones alone do as well as all or "
            "better on the shipped model, as the contents are English.",
        ),
    )
    publish("wordings", "english")
    if how == "all":
        return texts
    if how == "english":
        return english_wordings(instruction)
    if how == "chosen":
        return st.multiselect(
            "Chosen wordings",
            texts,
            default=texts[:1],
            key=f"chosen_wordings_{instruction.name}",
            persist_state="session",
            help=explain("wording"),
        )
    return texts[:1]


def _draw_own_instruction(instruction: Instruction) -> None:
    with st.expander(
        "See the wordings, edit a copy or upload your own",
        key="instruction_expander",
        icon=":material/edit:",
    ):
        with st.form("edit_instruction", border=False):
            text = st.text_area(
                "Instruction as YAML",
                instruction_yaml(instruction),
                height=260,
                key=f"instruction_text_{instruction.name}",
                help=explain("instruction, wordings, evaluator"),
            )
            if st.form_submit_button("Use this copy", icon=":material/check:"):
                with shown():
                    edited = load_instruction(text or "", source="your copy")
                    _check_name(edited)
                    _keep_instruction(edited)
        file = st.file_uploader(
            "Instruction as a YAML file",
            ["yaml", "yml"],
            key="instruction_file",
            max_upload_size=1,
            help=explain(
                "instruction, wordings, evaluator",
                f"At most {MAX_INSTRUCTION_BYTES // 1000} kB. Fields: name, wordings; if wanted "
                "description, evaluator and evaluator_parameters.",
            ),
        )
        if file is not None and st.session_state.get(_INSTRUCTION) != file.file_id:
            with shown():
                own = _read_instruction(file.getvalue(), filename=file.name)
                _check_name(own)
                # Read once, or it would undo what is edited afterwards.
                st.session_state[_INSTRUCTION] = file.file_id
                _keep_instruction(own)


def _check_name(instruction: Instruction) -> None:
    shipped = shipped_instructions().get(instruction.name)
    if shipped not in (None, instruction):
        raise PromptPairError(
            f"The name {instruction.name!r} belongs to a shipped instruction; give yours another."
        )


def _keep_instruction(instruction: Instruction) -> None:
    """Offer a person's own instruction and choose it."""
    if instruction.name not in shipped_instructions():
        work().uploaded[instruction.name] = instruction
    work().instruction = instruction.name
    st.rerun()


def _read_instruction(data: bytes, *, filename: str) -> Instruction:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptPairError(
            f"{filename!r} is not UTF-8 text; save the instruction as UTF-8 and upload it again."
        ) from error
    return load_instruction(text, source=filename)


def _draw_contents(n_known: int, kind: str) -> tuple[int, InstructionPosition]:
    left, right = st.columns(2)
    key, default = f"contents_{kind}", min(DEFAULT_CONTENTS, n_known)
    seed_number(key, default, 1, n_known)
    n_contents = left.number_input(
        f"Contents (of {n_known} {kind})",
        1,
        n_known,
        step=1,
        key=key,
        persist_state="session",
        help=explain("contents"),
    )
    publish(key, default)
    seed_choice("position", "after", get_args(InstructionPosition))
    position = right.segmented_control(
        "Instruction comes",
        get_args(InstructionPosition),
        required=True,
        help=explain("instruction, content", "After or before the content."),
        key="position",
        persist_state="session",
    )
    publish("position", "after")
    return int(n_contents), position or "after"


def _draw_upload(
    key: str,
    label: str,
    kinds: list[str],
    read: Callable[..., list[T]],
    *,
    about: str,
) -> _Upload[T] | None:
    """An upload field; the value that the last readable file held, and the file's name."""
    version = st.session_state.setdefault(f"{key}_version", 0)
    file = st.file_uploader(
        label, kinds, key=f"{key}_{version}", max_upload_size=MAX_MB, help=about
    )
    kept: _Upload[T] | None = st.session_state.get(key)
    if file is not None and (kept is None or kept.file_id != file.file_id):
        with shown():
            value = read(file.getvalue(), filename=file.name)
            kept = st.session_state[key] = _Upload(file.file_id, file.name, value)
    if kept is None:
        return None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"In use: {escape_markdown(kept.name)} · {len(kept.value):,} rows")
        st.button(
            "Forget it",
            key=f"{key}_forget",
            icon=":material/close:",
            type="tertiary",
            on_click=_forget,
            args=(key,),
        )
    return kept


def _forget(key: str) -> None:
    st.session_state[key] = None
    keep(key, None)
    # A new identity empties the field; Streamlit has no other way to do so.
    st.session_state[f"{key}_version"] += 1


def instruction_yaml(instruction: Instruction) -> str:
    """An instruction as ``load_instruction`` reads it, under the name of a copy."""
    shipped = instruction.name in shipped_instructions()
    judged = {
        "evaluator": instruction.evaluator,
        "evaluator_parameters": instruction.evaluator_parameters,
    }
    fields = {
        "name": f"my-{instruction.name}"[:64].rstrip("-") if shipped else instruction.name,
        **({"description": instruction.description} if instruction.description else {}),
        **(judged if instruction.evaluator else {}),
        "wordings": [{"text": w.text, "language": w.language} for w in instruction.wordings],
    }
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    return text
