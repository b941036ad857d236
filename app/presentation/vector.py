"""What a vector is made of, as tables and words."""

from typing import Any

from app.presentation.escaping import promotes
from saif_core.records.vectors import NaiveEncoding, VectorReport

# From here on, what the encoder says of a vector is mostly what it says of nothing.
MEANINGLESS_OVERLAP = 0.5


def explained_sentence(report: VectorReport, k: int) -> str:
    """What the first ``k`` atoms and all of them explain."""
    explained = report.pursuit.explained
    parts = [f"the first {k} explain {explained[k - 1]:.1%}"] if k < len(explained) else []
    parts.append(f"all {len(explained)} explain {explained[-1]:.1%}")
    return f"Of the squared norm, {' and '.join(parts)}."


def atom_table(report: VectorReport, k: int) -> dict[str, list[Any]]:
    """The first ``k`` atoms in the order of choice."""
    atoms = report.first_atoms(k)
    return {
        "latent": [atom.index for atom in atoms],
        "coefficient": [atom.coefficient for atom in atoms],
        "explained": [100 * share for share in report.pursuit.explained[:k]],
        "promotes": [promotes(report.promoted[atom.index]) for atom in atoms],
    }


def change_table(report: VectorReport) -> dict[str, list[Any]]:
    """The latents that adding the vector changes most."""
    return {
        "latent": [change.index for change in report.changes],
        "change": [change.change for change in report.changes],
        "promotes": [promotes(report.promoted[change.index]) for change in report.changes],
    }


def naive_sentence(naive: NaiveEncoding) -> str:
    """What encoding the vector itself shows, and whether that means anything."""
    if naive.overlap is None:
        return (
            "Encoding the vector itself shows nothing at all: no latent fires on it, as it is no "
            "residual stream."
        )
    n_shared = round(naive.overlap * len(naive.top))
    found = (
        f"Of the {len(naive.top)} latents that fire most when the vector itself is encoded, "
        f"{n_shared} fire as well when nothing at all is encoded (overlap {naive.overlap:.0%})."
    )
    if naive.overlap >= MEANINGLESS_OVERLAP:
        return f"{found} That list is meaningless: it shows the encoder's bias, not the vector."
    return (
        f"{found} That list is not the encoder's bias alone, but it cannot show what the vector "
        "takes away: trust the two lists above."
    )
