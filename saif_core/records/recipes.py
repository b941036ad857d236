"""The best measured way to steer with an instruction, as SAIF ships it."""

from dataclasses import dataclass, field

from saif_core.records.as_json import Record
from saif_core.records.evaluation import Rates
from saif_core.records.steering import Arm, Sampling


@dataclass(frozen=True)
class Measured(Record):
    """What came of an arm on contents that had no part in choosing its setting.

    Attributes:
        rates: see ``Rates``.
        p: paired test (McNemar) of useful texts against the recipe's own arm; None for that arm.
    """

    rates: Rates
    p: float | None = None


@dataclass(frozen=True)
class Recipe(Record):
    """An arm that did best for an instruction, and what was measured of it.

    Attributes:
        instruction: its name.
        arm: what steers; its tensors are in the file of the same name beside it.
        sampling: how the texts were written that were measured.
        model, model_sha256, sae_sha256s: what it was made for; SAEs by id.
        measured: of the arm itself.
        beside: of the arms that it was compared with, by name: "prompted", "random", …
        wording: what prompted ones of these were told.
    """

    instruction: str
    arm: Arm
    sampling: Sampling
    model: str
    model_sha256: str
    sae_sha256s: dict[str, str]
    measured: Measured
    beside: dict[str, Measured] = field(default_factory=dict)
    wording: str = ""
