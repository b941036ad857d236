"""How texts are steered: edits, arms, and the request that holds them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from saif_core.records.prompts import InstructionPosition, Turn
from saif_core.records.ranking import ChosenLatent

SteeringScope = Literal["generated", "last-token", "first", "prompt", "all"]
ArmKind = Literal["unsteered", "prompted", "steered", "random", "flipped", "logit-bias"]


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
