"""How texts are steered: edits, arms, and the request that holds them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MaxLen, MinLen

from saif_core.records.as_json import Record
from saif_core.records.prompts import InstructionPosition, Turn
from saif_core.records.ranking import ChosenLatent

SteeringScope = Literal["generated", "last-token", "first", "prompt", "prompt-ends", "all"]
ArmKind = Literal[
    "unsteered", "prompted", "steered", "random", "flipped", "logit-bias", "cue-token"
]
ControlKind = Literal["random", "flipped", "logit-bias", "cue-token"]

MAX_STRENGTH = 100.0
MAX_NEW_TOKENS, MAX_SAMPLES, MAX_PROMPTS = 2048, 64, 256


@dataclass(frozen=True)
class Schedule(Record):
    """Which tokens are steered, and how the strength goes along the text.

    Attributes:
        scope: tokens whose residual stream is edited; "generated" begins with the last prompt
            token, which writes the first token; "last-token" is that one alone; "first" the
            first ``first`` of them; "prompt-ends" the first ``prompt_first`` and the last
            ``prompt_last`` tokens of the prompt.
        first: how many tokens the scope "first" steers.
        prompt_first, prompt_last: tokens at each end of the prompt that the scope "prompt-ends"
            steers.
        decay: strength at token t of the answer is divided by (1 + decay·t) to the power
            ``decay_power``.
        decay_power: see ``decay``.
    """

    scope: SteeringScope = "generated"
    first: Annotated[int, Interval(ge=1, le=2048)] = 1
    prompt_first: Annotated[int, Interval(ge=0, le=2048)] = 4
    prompt_last: Annotated[int, Interval(ge=1, le=2048)] = 4
    decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    decay_power: Annotated[float, Interval(ge=0, le=5)] = 1.0

    def strength_at(self, strength: float, step: int) -> float:
        """What a strength is while token number ``step`` of the answer is being written.

        Source of the decay: arXiv 2510.01246.
        """
        if self.scope not in ("generated", "all"):
            n_steps = self.first if self.scope == "first" else 1
            if step >= n_steps:
                return 0.0
        return float(strength / (1 + self.decay * step) ** self.decay_power)

    def strength_on_prompt(self, strength: float, position: int, n_tokens: int) -> float:
        """What a strength is on a token of the prompt before its last.

        Source of "prompt-ends": PrOSV (arXiv 2605.05983), reconstructed.

        Args:
            position: of the token, from 0.
            n_tokens: of the prompt.
        """
        if self.scope == "prompt-ends":
            at_end = position < self.prompt_first or position >= n_tokens - self.prompt_last
            return strength if at_end else 0.0
        return strength if self.edits_prompt else 0.0

    def strengths(self, strength: float, n_prompt: int, n_tokens: int) -> list[float]:
        """What a strength is on every token of a prompt and of what follows it.

        Args:
            n_prompt: tokens of the prompt.
            n_tokens: of both together.
        """
        on_prompt = [
            self.strength_on_prompt(strength, position, n_prompt)
            for position in range(min(n_prompt - 1, n_tokens))
        ]
        later = [self.strength_at(strength, step) for step in range(n_tokens - len(on_prompt))]
        return [*on_prompt, *later]

    @property
    def edits_prompt(self) -> bool:
        """Whether tokens before the last one of the prompt are steered."""
        return self.scope in ("all", "prompt", "prompt-ends")


@dataclass(frozen=True)
class Sampling(Record):
    """How texts are written.

    Attributes:
        chat: put prompts through the model's chat template.
        system: what the chat's system turn says; "" for none.
        max_new_tokens: tokens a text has at most.
        temperature: 0 is greedy, in which small models repeat themselves.
        top_p: draw among the likeliest tokens that hold this share of the probability.
        stop: a text ends before the first of these.
        seed: of the draws, which all arms share.
        samples: texts for every prompt and arm.
    """

    chat: bool = True
    system: Annotated[str, MaxLen(20_000)] = ""
    max_new_tokens: Annotated[int, Interval(ge=1, le=MAX_NEW_TOKENS)] = 48
    temperature: Annotated[float, Interval(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    stop: Annotated[tuple[Annotated[str, MinLen(1), MaxLen(200)], ...], MaxLen(8)] = ()
    seed: Annotated[int, Ge(0)] = 0
    samples: Annotated[int, Interval(ge=1, le=MAX_SAMPLES)] = 1


@dataclass(frozen=True)
class Edit(Record):
    """What is written into the residual stream after one block.

    Attributes:
        layer: block after which is written.
        method: how: a steering method, or a source that writes its edits itself.
        method_parameters: the method's own.
        sae_id: SAE that ``latents`` belong to; "" without latents.
        latents: chosen latents with their coefficients, which a person can read and change.
        tensors: content hash of named tensors that the method reads; "" for none. A steering
            vector is the tensor "vector" (d_model,), in the residual stream's own scale.
        share: of the arm's strength; edits at several layers share it.
        keep_norm: rescale the edited residual stream to the norm it had.
        schedule: the tokens that it was learned for; None leaves them to the arm.
    """

    layer: Annotated[int, Ge(0)]
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)
    sae_id: str = ""
    latents: tuple[ChosenLatent, ...] = ()
    tensors: str = ""
    share: Annotated[float, Interval(ge=-MAX_STRENGTH, le=MAX_STRENGTH)] = 1.0
    keep_norm: bool = False
    schedule: Schedule | None = None

    @property
    def writes_something(self) -> bool:
        """Whether there is anything to write with."""
        return bool(self.latents or self.tensors)


@dataclass(frozen=True)
class Origin(Record):
    """Where edits come from, so that they can be made again.

    Attributes:
        source: its name.
        parameters: all of the source's.
        study_key: hash of what the source learned from: model, SAEs, pairs, reading position.
        file_sha256: hash of the file that holds the source.
    """

    source: str
    parameters: dict[str, Any] = field(default_factory=dict)
    study_key: str = ""
    file_sha256: str = ""


@dataclass(frozen=True)
class Arm(Record):
    """One way of answering a prompt.

    Attributes:
        name: heading of its texts, unlike any other of the same request.
        kind: "unsteered"; "prompted": the instruction in the text; "steered"; and the controls of
            what is steered, which act on what its edits add: "random": as much in a random
            direction; "flipped": minus the strength; "logit-bias": what the edits add to the
            logits directly, added there alone; "cue-token": the token that they promote most,
            forced once, and nothing added.
        edits: what is written where; several layers at once are several edits.
        strength: 1 = as strongly as the latents fire on instructed prompts.
        schedule: which tokens are steered, and how strongly along the text.
        seed: draws what a random control adds.
        instruction: stands in the prompt: of a prompted arm, and of one that is steered as well.
        position: where it stands.
        origin: what made the edits, where a source did.
    """

    name: str
    kind: ArmKind = "steered"
    edits: tuple[Edit, ...] = ()
    strength: Annotated[float, Interval(ge=-MAX_STRENGTH, le=MAX_STRENGTH)] = 1.0
    schedule: Schedule = Schedule()
    seed: Annotated[int, Ge(0)] = 0
    instruction: str = ""
    position: InstructionPosition = "after"
    origin: Origin | None = None

    @property
    def is_told(self) -> bool:
        """Whether the instruction stands in its prompt."""
        return bool(self.instruction.strip()) and self.kind != "unsteered"

    @property
    def steers(self) -> bool:
        """Whether it needs edits."""
        return self.kind not in ("unsteered", "prompted")


UNSTEERED = Arm("unsteered", "unsteered")


@dataclass(frozen=True)
class GenerationRequest(Record):
    """Prompts to answer in one batch, by every arm.

    Attributes:
        arms: all of them; the texts of each stand beside those of the others.
        sampling: how the texts are written.
        histories: earlier turns of the chat for each arm, in their order; none where no chat
            goes on.
        instruction: name of the instruction that the texts are judged by; "" for none.
        divergence: tell for each token how much its probability was changed.
    """

    prompts: tuple[str, ...]
    arms: tuple[Arm, ...] = (UNSTEERED,)
    sampling: Sampling = Sampling()
    histories: tuple[tuple[Turn, ...], ...] = ()
    instruction: str = ""
    divergence: bool = False

    @property
    def n_texts(self) -> int:
        """How many texts are written."""
        return len(self.prompts) * len(self.arms) * self.sampling.samples

    @property
    def steered(self) -> tuple[Arm, ...]:
        """The arms that steer, controls left out."""
        return tuple(arm for arm in self.arms if arm.kind == "steered")


@dataclass(frozen=True)
class SteeringRecipe(Record):
    """A request, and hashes and versions of everything that its texts depend on.

    Attributes:
        sae_sha256s: of every SAE that an arm takes latents from, by id.
        plugin_sha256s: of the files of its steering methods and sources, by name.
        chat_template_sha256: "" for a model without one.
        dtype: that the model ran in.
        versions: of Python and the libraries.
    """

    request: GenerationRequest
    model: str
    model_sha256: str
    sae_sha256s: dict[str, str] = field(default_factory=dict)
    plugin_sha256s: dict[str, str] = field(default_factory=dict)
    chat_template_sha256: str = ""
    dtype: str = ""
    versions: dict[str, str] = field(default_factory=dict)
