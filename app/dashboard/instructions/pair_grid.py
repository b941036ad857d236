"""A person's own prompt pairs: typed or pasted into a grid, or read from a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import streamlit as st

from app.dashboard.kept_work import keep, read_part
from app.dashboard.messages import shown
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import meaning
from saif_core.inputs.prompt_pairs import join_instruction, load_pairs
from saif_core.inputs.text_files import MAX_MB
from saif_core.records.prompts import PromptPair

Kind = Literal["parts", "sides"]
_KINDS: dict[Kind, str] = {
    "parts": "Content and instruction",
    "sides": "With and without",
}
_COLUMNS: dict[Kind, dict[str, str]] = {
    "parts": {"content": "content", "instruction": "instruction"},
    "sides": {"positive": "with the instruction", "negative": "without it"},
}
EXAMPLE_PAIRS = (
    "content,instruction\n"
    '"The mayor thanked the volunteers, one by one.",Answer as a pirate.\n'
    "My neighbour grows tomatoes on her balcony.,Answer as a pirate.\n"
    "The train to the coast leaves at seven.,Reply the way a pirate would.\n"
)
# A longer list is used as it is, and not drawn.
MOST_DRAWN, N_BLANK, MAX_NAME = 500, 4, 60
DEFAULT_NAME = "my-pairs"

_KEY, _FILE, _GRID = "own_pairs", "own_pairs_file", "own_pairs_grid"


@dataclass(frozen=True)
class OwnPairs:
    """Rows of the grid.

    Attributes:
        name: what the pairs are about, as people call it.
        rows: of texts, by column; a row may be blank.
    """

    kind: Kind = "parts"
    name: str = DEFAULT_NAME
    rows: tuple[Mapping[str, str], ...] = field(default=())

    @property
    def filled(self) -> list[Mapping[str, str]]:
        """The rows that are not blank."""
        return [row for row in self.rows if any(text.strip() for text in row.values())]

    def pairs(self) -> tuple[PromptPair, ...]:
        """The pairs of the rows.

        Raises:
            PromptPairError: a row cannot be used; the message names it.
        """
        text = "\n".join(json.dumps(dict(row)) for row in self.filled)
        return tuple(load_pairs(text.encode("utf-8", "replace"), filename="your pairs.jsonl"))


def own_pairs() -> OwnPairs:
    """The pairs of this browser session; at first what was kept."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = read_part(_KEY, _read, OwnPairs())
    found: OwnPairs = st.session_state[_KEY]
    return found


def own_pairs_sentence() -> str:
    """That a person's own pairs are what is ranked, as Markdown; "" while they are not."""
    chosen = st.session_state.get("source", st.query_params.get("source", ""))
    if chosen != "file" or not own_pairs().filled:
        return ""
    return f"Your own pairs: {escape_markdown(own_pairs().name)}"


def draw_pair_grid() -> tuple[str, tuple[PromptPair, ...]] | None:
    """Draw the grid; name and pairs, None while there are none.

    Raises:
        PromptPairError: a row cannot be used.
    """
    _draw_file()
    name, kind = st.columns(2)
    with name:
        _draw_name()
    with kind:
        _draw_kind()
    _draw_rows()
    if not own_pairs().filled:
        st.caption("Type or paste pairs into the grid, or upload a file; they then appear here.")
        return None
    return own_pairs().name, own_pairs().pairs()


def _draw_name() -> None:
    now = own_pairs()
    text = st.text_input(
        "What they are about",
        now.name,
        max_chars=MAX_NAME,
        key="own_pairs_name",
        help="Names the ranking, such as pirate.",
    )
    _keep(replace(now, name=" ".join((text or "").split()) or DEFAULT_NAME))


def _draw_kind() -> None:
    now = own_pairs()
    kind = st.segmented_control(
        "A row is",
        get_args(Kind),
        default=now.kind,
        required=True,
        format_func=lambda option: _KINDS[option],
        key="own_pairs_kind",
        help=meaning("prompt pair"),
    )
    if kind and kind != now.kind:
        _keep(replace(now, kind=kind, rows=tuple(_as_kind(row, kind) for row in now.filled)))
        _redraw()


def _draw_file() -> None:
    version = st.session_state.setdefault(f"{_FILE}_version", 0)
    file = st.file_uploader(
        "Pairs as CSV or JSONL, one per row",
        ["csv", "jsonl"],
        key=f"{_FILE}_{version}",
        max_upload_size=MAX_MB,
        help="Columns content and instruction, or positive (with the instruction) and negative "
        "(without).",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "An example file",
            EXAMPLE_PAIRS,
            "pairs.csv",
            "text/csv",
            key="own_pairs_example",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
        )
        if own_pairs().filled:
            st.button(
                "Forget them",
                key="own_pairs_forget",
                icon=":material/close:",
                type="tertiary",
                on_click=_forget,
            )
    if file is not None and st.session_state.get(_FILE) != file.file_id:
        with shown():
            pairs = load_pairs(file.getvalue(), filename=file.name)
            # Read once, or it would undo what is edited afterwards.
            st.session_state[_FILE] = file.file_id
            name = (file.name.rsplit(".", 1)[0] or file.name)[:MAX_NAME]
            _keep(rows_of(name, pairs))
            _show_anew()
            # The sidebar, drawn before, does not tell of them yet.
            st.rerun()


def rows_of(name: str, pairs: Sequence[PromptPair]) -> OwnPairs:
    """Pairs as rows of the grid, by content and instruction where they all have both."""
    if all(
        pair.positive == join_instruction(pair.content, pair.instruction, "after") for pair in pairs
    ):
        rows = tuple({"content": p.content, "instruction": p.instruction} for p in pairs)
        return OwnPairs("parts", name, rows)
    return OwnPairs(
        "sides", name, tuple({"positive": p.positive, "negative": p.negative} for p in pairs)
    )


def _draw_rows() -> None:
    now, state = own_pairs(), st.session_state
    if len(now.filled) > MOST_DRAWN:
        st.caption(f"{counted(len(now.filled), 'pair')} in use; too many to edit in a grid.")
        return
    version = state.get(f"{_GRID}_version", 0)
    # The editor keeps edits relative to the table it was first given.
    if f"{_GRID}_{version}" not in state:
        version = state[f"{_GRID}_version"] = version + 1
        columns = _COLUMNS[now.kind]
        blank = {name: "" for name in columns}
        rows = [*now.filled, *[blank] * (0 if now.filled else N_BLANK)]
        state[f"{_GRID}_table"] = {name: [row[name] for row in rows] for name in columns}
    table = state[f"{_GRID}_table"]
    edited = st.data_editor(
        table,
        key=f"{_GRID}_{version}",
        num_rows="dynamic",
        hide_index=True,
        column_config={
            name: st.column_config.TextColumn(label, width="medium")
            for name, label in _COLUMNS[now.kind].items()
        },
        alt="Prompt pairs, one a row",
    )
    names = list(_COLUMNS[now.kind])
    found = zip(*(edited[name] for name in names), strict=True)
    kept = tuple({n: str(text or "") for n, text in zip(names, row, strict=True)} for row in found)
    _keep(replace(now, rows=kept))


def _as_kind(row: Mapping[str, str], kind: Kind) -> Mapping[str, str]:
    if kind == "sides":
        joined = join_instruction(row["content"], row["instruction"], "after").strip()
        return {"positive": joined, "negative": row["content"]}
    both, content = row["positive"], row["negative"]
    rest = both[len(content) :] if both.startswith(content) else both
    return {"content": content, "instruction": rest.strip()}


def _keep(value: OwnPairs) -> None:
    st.session_state[_KEY] = value
    rows = [list(row.values()) for row in value.filled]
    keep(_KEY, {"kind": value.kind, "name": value.name, "rows": rows} if rows else None)


def _forget() -> None:
    _keep(OwnPairs())
    # A new identity empties a field of files; Streamlit has no other way to do so.
    st.session_state[f"{_FILE}_version"] += 1
    _redraw()
    for key in ("own_pairs_name", "own_pairs_kind"):
        st.session_state.pop(key, None)


def _redraw() -> None:
    """Have the grid show the rows that are kept instead of its own edits."""
    state = st.session_state
    state.pop(f"{_GRID}_{state.get(f'{_GRID}_version', 0)}", None)
    state[f"{_GRID}_version"] = state.get(f"{_GRID}_version", 0) + 1


def _show_anew() -> None:
    _redraw()
    for key in ("own_pairs_name", "own_pairs_kind"):
        st.session_state.pop(key, None)


def _read(part: Any) -> OwnPairs:
    """The pairs that were kept.

    Raises:
        ValueError: it is something else.
    """
    kind, columns = part["kind"], list(_COLUMNS[part["kind"]])
    texts = tuple(dict(zip(columns, map(str, row), strict=True)) for row in part["rows"])
    return OwnPairs(kind, str(part["name"])[:MAX_NAME] or DEFAULT_NAME, texts)
