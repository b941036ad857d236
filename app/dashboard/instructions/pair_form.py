"""The form that chooses prompt pairs: an instruction with contents, or a person's own file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import streamlit as st
import yaml

from app.dashboard.fields.url_fields import publish, seed_choice, seed_number
from app.dashboard.messages import shown
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from saif_core.errors import PromptPairError
from saif_core.inputs.instruction_files import load_instruction
from saif_core.inputs.prompt_pairs import load_contents, load_pairs, make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.records.prompts import Instruction, InstructionPosition, PromptPair

T = TypeVar("T")
Source = Literal["instruction", "file"]
Wordings = Literal["first", "all", "chosen"]
_SOURCES: dict[Source, str] = {"instruction": "An instruction", "file": "My own pairs"}
_WORDINGS: dict[Wordings, str] = {"first": "First only", "all": "All", "chosen": "Choose"}
DEFAULT_CONTENTS = 8
# Uploads are held here, not in their widgets, which forget them when the page is left.
_PAIRS, _CONTENTS, _INSTRUCTION = "own_pairs", "own_contents", "own_instruction_file"


@dataclass(frozen=True)
class PairChoice:
    """Pairs ready for a ranking, and the name of what they are about."""

    instruction: str
    pairs: tuple[PromptPair, ...]


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
    )
    publish("source", "instruction")
    choice: PairChoice | None = None
    with shown():
        choice = _draw_own_pairs() if source == "file" else _draw_instruction()
    return choice


def uploaded_contents() -> list[str] | None:
    """The contents uploaded on the Instructions page; None while the shipped ones are used."""
    own: _Upload[str] | None = st.session_state.get(_CONTENTS)
    return None if own is None else own.value


def _draw_own_pairs() -> PairChoice | None:
    pairs = _draw_upload(
        _PAIRS,
        "Pairs as CSV or JSONL, one per row",
        ["csv", "jsonl"],
        load_pairs,
        about="Columns content and instruction, or positive (with the instruction) and negative "
        "(without).",
    )
    if pairs is None:
        st.caption("Upload a file to see its pairs here.")
        return None
    return PairChoice(pairs.name.rsplit(".", 1)[0] or pairs.name, tuple(pairs.value))


def _draw_instruction() -> PairChoice:
    instruction = draw_instruction_choice("instruction_choice")
    if instruction.description:
        st.caption(escape_markdown(instruction.description))
    wordings = _draw_wordings(instruction)
    _draw_own_instruction(instruction)
    contents = shipped_contents()
    own = None
    with st.expander("Contents of your own", key="contents_expander", icon=":material/upload:"):
        own = _draw_upload(
            _CONTENTS,
            "Contents as TXT (one per line), CSV or JSONL",
            ["txt", "csv", "jsonl"],
            load_contents,
            about="CSV and JSONL need a column text or content.",
        )
    kind = "shipped"
    if own is not None:
        contents, kind = own.value, "own"
    n_contents, position = _draw_contents(len(contents), kind)
    pairs = make_pairs(
        instruction, contents, position=position, n_contents=n_contents, wordings=wordings
    )
    return PairChoice(instruction.name, pairs)


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
    seed_choice("wordings", "all", get_args(Wordings))
    how = st.segmented_control(
        f"Wordings ({len(texts)}{foreign})",
        get_args(Wordings),
        required=True,
        format_func=lambda option: _WORDINGS[option],
        key="wordings",
        persist_state="session",
        help="Every chosen wording is put to every content.",
    )
    publish("wordings", "all")
    if how == "all":
        return texts
    if how == "chosen":
        return st.multiselect(
            "Chosen wordings",
            texts,
            default=texts[:1],
            key=f"chosen_wordings_{instruction.name}",
            persist_state="session",
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
            help="Fields: name, evaluator, wordings; if wanted description and "
            "evaluator_parameters.",
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
        f"Contents (of {n_known} {kind})", 1, n_known, step=1, key=key, persist_state="session"
    )
    publish(key, default)
    seed_choice("position", "after", get_args(InstructionPosition))
    position = right.segmented_control(
        "Instruction comes",
        get_args(InstructionPosition),
        required=True,
        help="After or before the content.",
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
    file = st.file_uploader(label, kinds, key=f"{key}_{version}", help=about)
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
    st.session_state.pop(key, None)
    # A new identity empties the field; Streamlit has no other way to do so.
    st.session_state[f"{key}_version"] += 1


def instruction_yaml(instruction: Instruction) -> str:
    """An instruction as ``load_instruction`` reads it, under the name of a copy."""
    shipped = instruction.name in shipped_instructions()
    fields = {
        "name": f"my-{instruction.name}"[:64].rstrip("-") if shipped else instruction.name,
        "description": instruction.description,
        "evaluator": instruction.evaluator,
        "evaluator_parameters": instruction.evaluator_parameters,
        "wordings": [{"text": w.text, "language": w.language} for w in instruction.wordings],
    }
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    return text
