"""Records of an evaluation: what was asked, the figures of each cell, and the texts behind them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from saif_core.records.as_json import new_id, utc_now
from saif_core.records.prompts import Instruction, InstructionPosition
from saif_core.records.ranking import ChosenLatent, ReadPosition
from saif_core.records.steering import SteeringScope
from saif_core.records.texts import Grade

Outcome = Literal["success", "retained", "disorder"]

BASELINES = ("unsteered", "prompted")
STEERED = ("saif", "one-latent", "clamp", "ablate", "denoised", "mean-difference")
# Each is matched to one setting of a steered arm: equal norm, same layer, same strength.
CONTROLS = ("random", "flipped", "logit-bias")
EVALUATION_ARMS = (*BASELINES, *STEERED, *CONTROLS)
DEFAULT_ARMS = ("unsteered", "prompted", "saif", "denoised", "mean-difference", "random")
# Arms that need an SAE: the best of them is what steering by latents can do.
SAE_ARMS = ("saif", "one-latent", "clamp", "ablate", "denoised")
WORST_DISORDER = 0.2


@dataclass(frozen=True)
class EvaluationRequest:
    """Everything that decides an evaluation.

    Attributes:
        sae_ids: SAEs to read and write with, one layer each.
        controls: "best": for the setting of each arm that did best; "all": for every setting.
        together: also steer at all their layers at once, each at an equal share of the strength.
        arms: any of ``EVALUATION_ARMS``.
        strengths: 1 = as strongly as the latents fire on instructed prompts, or as the mean
            difference.
        tops: numbers of latents of "saif", "clamp", "ablate" and "random".
        denoised_tops: numbers of latents of "denoised".
        betas: coefficient of a latent = mean + beta × standard deviation.
        rank_contents, rank_wordings: what latents are ranked on.
        test_contents: what is answered; none of them is in ``rank_contents``.
        least_output_score: latents with a lower output score are left out; 0 keeps all.
        temperature: 0 is greedy, in which small models repeat themselves; every content has its own
            random draws, which all arms share.
        test_wordings: what prompted arms are told, content by content in turn.
    """

    instruction: Instruction
    sae_ids: tuple[str, ...]
    rank_contents: tuple[str, ...]
    rank_wordings: tuple[str, ...]
    test_contents: tuple[str, ...]
    test_wordings: tuple[str, ...]
    arms: tuple[str, ...] = DEFAULT_ARMS
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    tops: tuple[int, ...] = (15,)
    denoised_tops: tuple[int, ...] = (60,)
    betas: tuple[float, ...] = (0.0,)
    controls: Literal["best", "all"] = "best"
    together: bool = False
    position: InstructionPosition = "after"
    read: ReadPosition = "response"
    response_tokens: int = 24
    selector: str = "sensitivity"
    selector_parameters: dict[str, Any] = field(default_factory=dict)
    least_output_score: float = 0.0
    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False
    chat: bool = True
    max_new_tokens: int = 40
    temperature: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class CellSetting:
    """One arm with one setting; fields that an arm does not have are None.

    Attributes:
        arm: one of ``EVALUATION_ARMS``.
        of: the steered arm whose vector a control is matched to; else "".
        layers: blocks after which is written.
        k: number of latents.
    """

    arm: str
    of: str = ""
    layers: tuple[int, ...] = ()
    k: int | None = None
    beta: float | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Rates:
    """What came of some texts; intervals are Wilson's at 95%.

    Attributes:
        n: texts that could be judged; the rates are shares of them.
        loose: share of texts that follow at least loosely, strict ones included.
        unjudged: texts that could not be judged.
        success, retained, disorder: shares of all texts; they add up to 1.
        perplexity: median under the unsteered model; None where every text is empty.
        distinct_2: mean share of distinct pairs of words.
    """

    n: int
    strict: float
    strict_ci: tuple[float, float]
    loose: float
    loose_ci: tuple[float, float]
    unjudged: int
    success: float
    retained: float
    disorder: float
    disorder_ci: tuple[float, float]
    perplexity: float | None
    distinct_2: float


@dataclass(frozen=True)
class Cell:
    """The figures of one setting: over all test contents, and over each half of them.

    Attributes:
        resid_share: norm of what is added over the norm of the residual stream, mean over layers.
        p_unsteered, p_random: exact paired tests (McNemar) of strict grades on all contents
            against the unsteered arm and against the matched random control, two-sided; None
            where there is none.
    """

    setting: CellSetting
    rates: Rates
    choosing: Rates
    reporting: Rates
    resid_share: float | None = None
    p_unsteered: float | None = None
    p_random: float | None = None


@dataclass(frozen=True)
class BestCell:
    """The setting of an arm that did best on the choosing half; its figures on the other half.

    Attributes:
        cell: number of its cell.
        rates: on the reporting half, which had no part in the choice.
        p_unsteered, p_random: paired tests on that half.
    """

    arm: str
    cell: int
    rates: Rates
    p_unsteered: float | None = None
    p_random: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        latents: what "saif" steered with at the largest k and first beta, by layer.
        denoised: what "denoised" steered with at its largest k, by layer.
        best: one entry per arm that has settings to choose from.
        best_sae_arm: the arm of ``SAE_ARMS`` that did best on the choosing half; "" if none ran.
    """

    request: EvaluationRequest
    model: str
    model_sha256: str
    sae_sha256s: tuple[str, ...]
    dtype: str
    cells: tuple[Cell, ...]
    best: tuple[BestCell, ...]
    best_sae_arm: str
    latents: dict[str, tuple[ChosenLatent, ...]]
    seconds: float
    denoised: dict[str, tuple[ChosenLatent, ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class EvaluationText:
    """One text of a cell, with what was made of it."""

    cell: int
    content: str
    text: str
    grade: Grade | None
    reason: str
    outcome: Outcome
    perplexity: float | None


@dataclass(frozen=True)
class EvaluationSummary:
    """A line in the list of evaluations."""

    id: str
    instruction: str
    model: str
    n_cells: int
    n: int
    best_sae_arm: str
    best_strict: float | None
    created_at: str
