"""Plain records that pass between the layers: no tensors, no SQL, standard library only.

Ids are uuid strings made with the record. Every record turns into JSON and back with ``to_json``
and ``from_json``; no NaN or infinity is ever stored.
"""

import json
import math
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:  # only the type of what ``TensorPort`` takes
    import numpy as np

R = TypeVar("R")

ReadPosition = Literal["last-token", "response"]
InstructionPosition = Literal["after", "before"]
SteeringScope = Literal["generated", "last-token", "first", "prompt", "all"]
ArmKind = Literal["unsteered", "prompted", "steered", "random", "flipped", "logit-bias"]
JobState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
Grade = Literal["strict", "loose", "none"]

SESSION_SCHEMA_VERSION = 1


def new_id() -> str:
    """A fresh record id."""
    return str(uuid.uuid4())


def utc_now() -> str:
    """Now, as an ISO 8601 string in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Wording:
    """One way to say an instruction; ``language`` is an ISO 639-1 code."""

    text: str
    language: str = "en"


@dataclass(frozen=True)
class Instruction:
    """An instruction in several wordings, and how an answer to it is judged."""

    name: str
    description: str
    evaluator: str
    evaluator_parameters: dict[str, Any]
    wordings: tuple[Wording, ...]


@dataclass(frozen=True)
class PromptPair:
    """The same content with (positive) and without (negative) the instruction, as plain text."""

    positive: str
    negative: str
    content: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class RankingRequest:
    """Everything that decides a ranking.

    Attributes:
        chat: put prompts through the model's chat template.
        read: position whose activations are compared.
        response_tokens: how many tokens of the model's own answer are read (read="response").
        top: how many latents the steering vector takes.
    """

    sae_id: str
    instruction: str
    pairs: tuple[PromptPair, ...]
    chat: bool = True
    read: ReadPosition = "response"
    response_tokens: int = 24
    selector: str = "sensitivity"
    selector_parameters: dict[str, Any] = field(default_factory=dict)
    top: int = 15


@dataclass(frozen=True)
class LatentScore:
    """One latent in a ranking.

    Attributes:
        score: the selector's score.
        mean, std: of its activation over the positive positions where it fires (μ, σ).
        rate_positive, rate_negative: share of positions where it fires with / without.
        mean_difference: mean activation with minus without, zeros included.
        top_tokens: tokens its decoder direction promotes most.
    """

    index: int
    score: float
    mean: float
    std: float
    rate_positive: float
    rate_negative: float
    mean_difference: float
    top_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """Latents ordered by score, best first, with what is needed to compute them again."""

    model: str
    model_sha256: str
    sae: str
    sae_sha256: str
    hook_point: str
    d_sae: int
    instruction: str
    read: ReadPosition
    selector: str
    selector_parameters: dict[str, Any]
    n_pairs: int
    top: int
    latents: tuple[LatentScore, ...]
    n_selective: int  # fire on >= 80% of positives and <= 5% of negatives
    seconds: float
    tokens_total: int
    tokens_computed: int
    cached: bool
    id: str = field(default_factory=new_id)


@dataclass(frozen=True)
class ChosenLatent:
    """A latent to steer with; ``coefficient`` is its activation at strength 1 (SAIF's α)."""

    index: int
    coefficient: float


@dataclass(frozen=True)
class SteeringEdit:
    """What an arm adds to the residual stream after one block.

    Attributes:
        sae_id: SAE whose decoder directions ``latents`` are added; "" for a ``vector``.
        latents: chosen latents with their coefficients.
        vector: (d_model,) what strength 1 adds, in the residual stream's own scale, where no
            latents make it.
        layer: block after which a ``vector`` is added; latents are added at their SAE's.
    """

    sae_id: str = ""
    latents: tuple[ChosenLatent, ...] = ()
    vector: tuple[float, ...] = ()
    layer: int | None = None
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Arm:
    """One way of answering a prompt.

    Attributes:
        name: heading of its texts, unlike any other of the same request.
        kind: "unsteered"; "prompted": the instruction in the text; "steered"; and the controls
            of what is steered: "random" latents of equal norm, "flipped" sign, "logit-bias": what
            the vector adds to the logits directly, added there alone.
        edits: what is added where; several layers at once are several edits.
        strength: 1 = as strongly as the latents fire on instructed prompts.
        scope: tokens whose residual stream is edited; "generated" begins with the last prompt
            token, which writes the first token; "last-token" is that one alone; "first" the
            first ``first`` of them.
        decay: strength at step t is divided by (1 + decay·t) to the power ``decay_power``.
        keep_norm: rescale the edited residual stream to the norm it had.
        seed: draws the latents of a random control.
        instruction: a prompted arm's instruction.
        position: where it stands.
    """

    name: str
    kind: ArmKind = "steered"
    edits: tuple[SteeringEdit, ...] = ()
    strength: float = 1.0
    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False
    seed: int = 0
    instruction: str = ""
    position: InstructionPosition = "after"


UNSTEERED = Arm("unsteered", "unsteered")


@dataclass(frozen=True)
class SteeringRecipe:
    """Names, parameters and seeds that replay a steered generation; hashes say on what."""

    model: str
    model_sha256: str
    sae: str
    sae_sha256: str
    hook_point: str
    latents: tuple[ChosenLatent, ...]
    strength: float = 1.0
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)
    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False
    chat: bool = True
    chat_template_sha256: str = ""
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1
    instruction: str = ""
    read: str = ""
    selector: str = ""
    arms: tuple[Arm, ...] = ()
    histories: tuple[tuple[Turn, ...], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts to answer in one batch: unsteered, steered, and by any other arm.

    Attributes:
        latents: what the steered arm adds, at the SAE's hook point; strength, method, scope and
            schedule are this arm's too, see ``Arm``.
        samples: texts for every prompt and arm; all arms share their random draws.
        arms: arms beside unsteered and steered.
        histories: earlier turns of the chat for unsteered, steered and each of ``arms``, in this
            order; none where no chat goes on.
        divergence: tell for each token how much its probability was changed.
    """

    sae_id: str
    prompts: tuple[str, ...]
    latents: tuple[ChosenLatent, ...]
    strength: float = 1.0
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)
    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False
    chat: bool = True
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1
    instruction: str = ""
    read: str = ""
    selector: str = ""
    arms: tuple[Arm, ...] = ()
    histories: tuple[tuple[Turn, ...], ...] = ()
    divergence: bool = False

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """Unsteered, steered, and the others."""
        steered = Arm(
            "steered",
            edits=(
                SteeringEdit(
                    self.sae_id,
                    self.latents,
                    method=self.method,
                    method_parameters=self.method_parameters,
                ),
            ),
            strength=self.strength,
            scope=self.scope,
            first=self.first,
            decay=self.decay,
            decay_power=self.decay_power,
            keep_norm=self.keep_norm,
        )
        return (UNSTEERED, steered, *self.arms)

    @property
    def n_texts(self) -> int:
        """How many texts are written."""
        return len(self.prompts) * (2 + len(self.arms)) * self.samples


@dataclass(frozen=True)
class TokenEvent:
    """One new token of one arm; ``text`` is that arm's whole text so far."""

    prompt_index: int
    arm: str
    text: str
    n_tokens: int
    sample: int = 0


@dataclass(frozen=True)
class TokenDivergence:
    """What an arm did to one token of its text.

    Attributes:
        log_prob: natural logarithm of its probability under the unsteered model, which sees the
            prompt without instruction.
        change: the arm's own log-probability minus that.
        kl: of the arm's next-token distribution from the unsteered one, in nats.
        strength: what the arm steered with as it wrote the token; 0 where it did not.
    """

    token: str
    log_prob: float
    change: float
    kl: float
    strength: float


@dataclass(frozen=True)
class Generation:
    """One finished text."""

    prompt_index: int
    prompt: str
    arm: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length"]
    perplexity: float | None = None  # of the text under the unsteered model
    sample: int = 0
    changes: tuple[TokenDivergence, ...] = ()


@dataclass(frozen=True)
class GenerationResult:
    """All arms of a request, with the size of what was added to the residual stream.

    Attributes:
        vector_norm: Euclidean norm of strength x steering vector.
        resid_share: vector_norm over the median residual norm at the steered positions.
    """

    recipe: SteeringRecipe
    generations: tuple[Generation, ...]
    vector_norm: float
    resid_share: float
    seconds: float


@dataclass(frozen=True)
class LatentDetail:
    """What one latent's weights say: logit lens, neighbours."""

    sae: str
    hook_point: str
    index: int
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]
    decoder_norm: float
    encoder_bias: float


@dataclass(frozen=True)
class PairActivations:
    """Activation of one latent on every pair, with and without the instruction.

    For read="response" a value is the mean over the response tokens.
    """

    index: int
    positive: tuple[float, ...]
    negative: tuple[float, ...]


@dataclass(frozen=True)
class PromptView:
    """A prompt as the model sees it, token by token; special tokens are flagged."""

    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class WorkEstimate:
    """What a ranking would cost before it runs."""

    n_pairs: int
    tokens_total: int
    tokens_to_compute: int
    cached: bool


@dataclass(frozen=True)
class Judgement:
    """Whether a text follows the instruction; ``grade`` None means it could not be judged."""

    grade: Grade | None
    reason: str


@dataclass(frozen=True)
class JobRecord:
    """State of a job as others see it; times are ISO 8601."""

    id: str
    kind: str
    title: str
    state: JobState = "queued"
    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    result: dict[str, Any] | None = None
    created_at: str = field(default_factory=utc_now)
    heartbeat_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class SteeringSession:
    """A saved piece of work: what was asked, found, written and noted."""

    name: str
    id: str = field(default_factory=new_id)
    notes: str = ""
    instruction: Instruction | None = None
    ranking: Ranking | None = None
    recipe: SteeringRecipe | None = None
    prompts: tuple[str, ...] = ()
    result: GenerationResult | None = None
    share_id: str | None = None
    schema_version: int = SESSION_SCHEMA_VERSION
    created_at: str = field(default_factory=utc_now)
    updated_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class SessionSummary:
    """A line in the list of sessions."""

    id: str
    name: str
    instruction: str
    model: str
    sae: str
    n_prompts: int
    shared: bool
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class SaeCard:
    """Measured quality of an SAE on one kind of text that was not trained on."""

    text: str
    n_tokens: int
    fvu: float
    explained_variance: float
    ce_recovered: float
    l0: float


@dataclass(frozen=True)
class SaeInfo:
    """An SAE the catalog can load; figures are None where nothing was measured."""

    id: str
    model_id: str
    hook_point: str
    layer: int
    d_sae: int
    path: str
    dead_fraction: float | None = None
    tokens_seen: int | None = None
    sources: tuple[str, ...] = ()
    cards: tuple[SaeCard, ...] = ()


class ActivationCache(Protocol):
    """Where the engine keeps what it computed; ``storage`` implements it.

    Keys are content hashes, payloads are opaque. ``put_many`` may be called for keys that exist:
    the first payload stays. Safe from several threads and processes.
    """

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there."""

    def put_many(self, payloads: Mapping[str, bytes]) -> None:
        """Keep payloads, all or none."""


class JobLog(Protocol):
    """Where the engine reports its jobs; ``storage`` implements it."""

    def save_job(self, job: JobRecord) -> None:
        """Insert or update a job."""


class TensorPort(Protocol):
    """Where learned tensors are kept, such as steering vectors; ``storage`` implements it.

    A record never holds their numbers but the SHA-256 that ``put`` returns: whoever has it gets
    exactly what was put. The same content has the same hash. Tensors are numpy arrays, which have
    no bfloat16. Safe from several threads and processes.
    """

    def put(self, tensors: "Mapping[str, np.ndarray]", *, note: str = "") -> str:
        """The SHA-256 that named tensors are kept under, all or none."""

    def get(self, sha256: str) -> "dict[str, np.ndarray]":
        """The tensors that are kept under a hash, by name."""


def to_json(record: Any) -> dict[str, Any]:
    """A record as JSON-ready data.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    data = asdict(record)
    json.dumps(data, allow_nan=False)
    return data


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """The record that ``to_json`` turned into data; unknown keys are refused.

    Raises:
        ValueError: the data does not fit the record.
    """
    try:
        return typing.cast(R, _build(kind, data))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"This is not a {kind.__name__}: {error}.") from error


def _build(kind: Any, data: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _build(next(a for a in args if a is not type(None)), data)
    if is_dataclass(kind):
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object for {kind}, found {type(data).__name__}")
        hints = typing.get_type_hints(kind)
        unknown = set(data) - {f.name for f in fields(kind)}
        if unknown:
            raise ValueError(f"unknown fields {', '.join(sorted(map(str, unknown)))}")
        return typing.cast(Any, kind)(**{k: _build(hints[k], v) for k, v in data.items()})
    if origin is tuple:
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise ValueError(f"expected a list, found {type(data).__name__}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], item) for item in data)
        return tuple(_build(arg, item) for arg, item in zip(args, data, strict=True))
    if origin is Literal:
        if data not in args:
            raise ValueError(f"{data!r} is not one of {', '.join(map(repr, args))}")
        return data
    if origin is dict:
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object, found {type(data).__name__}")
        kept = not args or args[1] is Any
        return {key: value if kept else _build(args[1], value) for key, value in data.items()}
    return _scalar(kind, data)


def _scalar(kind: Any, data: Any) -> Any:
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        # An integer beyond every float is as unusable as infinity.
        number = float(data) if abs(data) < 1e308 else math.inf
        if not math.isfinite(number):
            raise ValueError(f"{data!r} is not a finite number")
        return number
    if isinstance(kind, type) and (
        not isinstance(data, kind) or (kind is int and isinstance(data, bool))
    ):
        raise ValueError(f"expected {kind.__name__}, found {type(data).__name__}")
    return data
