"""Records of an evaluation: what was asked, the figures of each cell, and the texts behind them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Interval, MaxLen

from saif_core.records.as_json import Record, new_id, utc_now
from saif_core.records.prompts import Instruction, InstructionPosition
from saif_core.records.ranking import ReadPosition
from saif_core.records.steering import MAX_STRENGTH, ControlKind, Edit, Origin, Sampling, Schedule
from saif_core.records.texts import Grade

Outcome = Literal["success", "retained", "disorder"]
BaselineKind = Literal["unsteered", "prompted"]

BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
CONTROLS: tuple[ControlKind, ...] = get_args(ControlKind)
WORST_DISORDER = 0.2
MOST_VALUES, MOST_CANDIDATES = 20, 32


@dataclass(frozen=True)
class Candidate(Record):
    """A way to steer that an evaluation measures: a source with the values to try.

    Attributes:
        source: its name.
        grid: values to try of its parameters, by name; those not named keep their default.
        method: steering method that writes its latents; "" leaves it to the source.
        method_grid: values to try of the method's parameters.
        prompted: the instruction stands in the prompt as well.
    """

    source: str
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    method: str = ""
    method_grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    prompted: bool = False

    @property
    def arm(self) -> str:
        """What its texts are listed under."""
        by_method = f"{self.source} by {self.method}" if self.method else self.source
        return f"{by_method} and prompted" if self.prompted else by_method


DEFAULT_CANDIDATES = (Candidate("saif"), Candidate("denoised"), Candidate("mean_difference"))


@dataclass(frozen=True)
class EvaluationRequest(Record):
    """Everything that decides an evaluation.

    Attributes:
        sae_ids: SAEs to read and write with, one layer each.
        rank_contents, rank_wordings: what sources learn from.
        test_contents: what is answered; none of them is in ``rank_contents``.
        test_wordings: what prompted arms are told, content by content in turn.
        layers: further blocks to write after, for sources that need no SAE.
        baselines: arms that steer nothing.
        candidates: what is steered with.
        controls: what is measured beside a candidate, matched to one of its settings.
        controls_of: "best": the setting of each candidate that did best; "all": every setting.
        strengths: 1 = as strongly as the latents fire on instructed prompts, or as the mean
            difference.
        together: also steer at all layers at once, each at an equal share of the strength.
        position: where the instruction stands.
        read, response_tokens, selector, selector_parameters: see ``RankingRequest``.
        schedule: which tokens are steered, and how strongly along the text.
        keep_norm: rescale the edited residual stream to the norm it had.
        sampling: how texts are written; every content has its own random draws, which all arms
            share, and one text.
    """

    instruction: Instruction
    sae_ids: tuple[str, ...]
    rank_contents: tuple[str, ...]
    rank_wordings: tuple[str, ...]
    test_contents: tuple[str, ...]
    test_wordings: tuple[str, ...]
    layers: tuple[Annotated[int, Ge(0)], ...] = ()
    baselines: tuple[BaselineKind, ...] = BASELINES
    candidates: Annotated[tuple[Candidate, ...], MaxLen(MOST_CANDIDATES)] = DEFAULT_CANDIDATES
    controls: tuple[ControlKind, ...] = ("random",)
    controls_of: Literal["best", "all"] = "best"
    strengths: Annotated[
        tuple[Annotated[float, Interval(ge=-MAX_STRENGTH, le=MAX_STRENGTH)], ...],
        MaxLen(MOST_VALUES),
    ] = (0.5, 1.0, 1.5, 2.0)
    together: bool = False
    position: InstructionPosition = "after"
    read: ReadPosition = "response"
    response_tokens: Annotated[int, Interval(ge=1, le=256)] = 24
    selector: str = "sensitivity"
    selector_parameters: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = Schedule()
    keep_norm: bool = False
    sampling: Sampling = Sampling(max_new_tokens=40, temperature=0.5)

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm by name: baselines, candidates, controls."""
        return (*self.baselines, *(candidate.arm for candidate in self.candidates), *self.controls)


@dataclass(frozen=True)
class CellSetting(Record):
    """One arm with one setting; what an arm does not have is empty.

    Attributes:
        arm: a baseline, the arm of a candidate, or a control.
        of: the candidate's arm that a control is matched to; else "".
        layers: blocks after which is written.
        parameters: of the source, then of the method, as tried.
        strength: None where nothing is steered.
    """

    arm: str
    of: str = ""
    layers: tuple[int, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    strength: float | None = None

    def __hash__(self) -> int:
        """Settings are looked up by what they are; parameters are plain values."""
        values = tuple(sorted((name, repr(value)) for name, value in self.parameters.items()))
        return hash((self.arm, self.of, self.layers, values, self.strength))

    @property
    def steered_arm(self) -> str:
        """The candidate's arm whose edits are written, or that this is a control of; else ""."""
        return self.of or (self.arm if self.strength is not None else "")


@dataclass(frozen=True)
class Rates(Record):
    """What came of some texts; intervals are Wilson's at 95%.

    Attributes:
        n: texts that could be judged; the rates are shares of them.
        useful: share of texts that follow strictly, are no disorder and are about their content, as
            far as that was measured; None in evaluations of before.
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
    useful: float | None = None
    useful_ci: tuple[float, float] | None = None

    @property
    def primary(self) -> float:
        """What settings are chosen and compared by: the useful rate, or strict where unknown."""
        return self.strict if self.useful is None else self.useful

    @property
    def primary_ci(self) -> tuple[float, float]:
        """Its interval."""
        return self.strict_ci if self.useful_ci is None else self.useful_ci


@dataclass(frozen=True)
class Cell(Record):
    """The figures of one setting: over all test contents, and over each half of them.

    Attributes:
        resid_share: norm of what is added over the norm of the residual stream, mean over layers.
        p_unsteered, p_random, p_prompted: exact paired tests (McNemar) of useful texts on all
            contents against the unsteered arm, the matched random control and the prompted arm,
            two-sided; None where there is none. Evaluations of before tested strict grades.
    """

    setting: CellSetting
    rates: Rates
    choosing: Rates
    reporting: Rates
    resid_share: float | None = None
    p_unsteered: float | None = None
    p_random: float | None = None
    p_prompted: float | None = None


@dataclass(frozen=True)
class BestCell(Record):
    """The setting of an arm that did best on the choosing half; its figures on the other half.

    Attributes:
        cell: number of its cell.
        rates: on the reporting half, which had no part in the choice.
        p_unsteered, p_random, p_prompted: paired tests on that half.
    """

    arm: str
    cell: int
    rates: Rates
    p_unsteered: float | None = None
    p_random: float | None = None
    p_prompted: float | None = None


@dataclass(frozen=True)
class MadeEdits(Record):
    """What a candidate wrote with one choice of parameters at some layers, at strength 1."""

    arm: str
    layers: tuple[int, ...]
    parameters: dict[str, Any]
    edits: tuple[Edit, ...]
    origin: Origin | None = None


@dataclass(frozen=True)
class Evaluation(Record):
    """A finished evaluation.

    Attributes:
        best: one entry per arm that has settings to choose from.
        best_sae_arm: of the candidates that steer with latents, the arm that did best on the
            choosing half; "" if none ran.
        made: what was steered with.
        plugin_sha256s: of the files of its selector, sources, methods and evaluator, by kind and
            name.
        content_measure: what told whether texts are about their contents; "" for nothing.
        content_reason: why nothing told.
    """

    request: EvaluationRequest
    model: str
    model_sha256: str
    sae_sha256s: tuple[str, ...]
    dtype: str
    cells: tuple[Cell, ...]
    best: tuple[BestCell, ...]
    best_sae_arm: str
    seconds: float
    made: tuple[MadeEdits, ...] = ()
    plugin_sha256s: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    content_measure: str = ""
    content_reason: str = ""
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)

    def made_for(self, setting: CellSetting) -> MadeEdits | None:
        """What a setting, or the one that a control is matched to, was steered with, if kept."""
        wanted = setting.steered_arm, setting.layers, setting.parameters
        return next((m for m in self.made if (m.arm, m.layers, m.parameters) == wanted), None)


@dataclass(frozen=True)
class EvaluationText(Record):
    """One text of a cell, with what was made of it.

    Attributes:
        about: whether it is about its content; None where nobody looked, as where it does not
            follow strictly or where nothing can tell.
    """

    cell: int
    content: str
    text: str
    grade: Grade | None
    reason: str
    outcome: Outcome
    perplexity: float | None
    about: bool | None = None

    @property
    def is_useful(self) -> bool:
        """Whether it follows strictly, is no disorder, and is about its content where known."""
        return self.grade == "strict" and self.outcome != "disorder" and self.about is not False


@dataclass(frozen=True)
class EvaluationSummary(Record):
    """A line in the list of evaluations."""

    id: str
    instruction: str
    model: str
    n_cells: int
    n: int
    best_sae_arm: str
    best_strict: float | None
    best_useful: float | None
    created_at: str
