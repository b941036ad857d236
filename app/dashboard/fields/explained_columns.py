"""Tables whose columns say what the words in their headings mean."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.presentation.glossary import explain


def explained_columns(
    names: Iterable[str], columns: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What Streamlit takes as ``column_config``, with the meanings of words in every heading.

    Args:
        names: of all columns of the table, as one that is shown as it is has a heading too.
        columns: how columns are shown, by name; a help of their own follows the meanings.
    """
    shown = {name: dict((columns or {}).get(name) or {}) for name in names}
    return {
        name: {**column, "help": explain(column.get("label") or name, column.get("help") or "")}
        for name, column in shown.items()
    }
