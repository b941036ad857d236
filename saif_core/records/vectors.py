"""What is in a vector of the residual stream."""

from dataclasses import dataclass

from saif_core.records.as_json import Record
from saif_core.records.ranking import ChosenLatent


@dataclass(frozen=True)
class LatentChange(Record):
    """Mean change of a latent's activation when the vector is added to the residual stream."""

    index: int
    change: float


@dataclass(frozen=True)
class Decomposition(Record):
    """A vector as a signed sum of decoder directions.

    Attributes:
        atoms: latents with their coefficients in the whole sum, in the order of choice.
        explained: ‖approximation‖² / ‖vector‖² with the first 1, 2, … atoms, refitted each time.
    """

    atoms: tuple[ChosenLatent, ...]
    explained: tuple[float, ...]


@dataclass(frozen=True)
class NaiveEncoding(Record):
    """What the encoder says of a vector that is no residual stream, as a warning.

    Attributes:
        top: latents that fire most on the vector, with their activations.
        top_of_zero: the same for the zero vector, which holds nothing.
        overlap: share of ``top`` that is in ``top_of_zero`` as well; None if nothing fires.
        norm_share: norm of the vector over the median norm of residual streams.
    """

    top: tuple[ChosenLatent, ...]
    top_of_zero: tuple[ChosenLatent, ...]
    overlap: float | None
    norm_share: float


@dataclass(frozen=True)
class VectorReport(Record):
    """A vector in the residual stream's own scale, and what is in it.

    Attributes:
        vector: d_model numbers.
        n_prompts: prompts at whose last token the residual stream was read for comparison.
        pursuit: the vector as a signed sum of decoder directions.
        fits: for the first 1, 2, … atoms the coefficients when only those are taken.
        changes: the latents that adding the vector changes most, largest first.
        naive: what encoding the vector itself would have said.
        promoted: for each latent in ``pursuit`` and ``changes`` the tokens that it promotes.
    """

    vector: tuple[float, ...]
    norm: float
    n_prompts: int
    pursuit: Decomposition
    fits: tuple[tuple[float, ...], ...]
    changes: tuple[LatentChange, ...]
    naive: NaiveEncoding
    promoted: dict[int, tuple[str, ...]]

    def first_atoms(self, k: int) -> tuple[ChosenLatent, ...]:
        """The first ``k`` atoms with the coefficients that fit the vector best."""
        atoms = self.pursuit.atoms[:k]
        return tuple(
            ChosenLatent(atom.index, coefficient)
            for atom, coefficient in zip(atoms, self.fits[len(atoms) - 1], strict=True)
        )
