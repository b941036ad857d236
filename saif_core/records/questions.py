"""What the engine can be asked besides rankings, texts and evaluations, and what it answers.

Each request names its work whole, so that a page, a terminal and a program elsewhere send the same.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Interval, Len, MaxLen

from saif_core.records.as_json import Record
from saif_core.records.corpus import LatentIndex
from saif_core.records.descriptions import Evidence
from saif_core.records.health import TextMeasurement
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import Arm, Edit, Origin
from saif_core.records.texts import ArmSize

LatentIndexNumber = Annotated[int, Ge(0)]
MAX_TEXT = 100_000


@dataclass(frozen=True)
class LoadRequest(Record):
    """Load the model and an SAE, so that what comes next need not wait."""

    sae_id: str


@dataclass(frozen=True)
class ModelQuestion(Record):
    """What the engine's model is, once it was loaded."""


@dataclass(frozen=True)
class ModelAnswer(Record):
    """The engine's model.

    Attributes:
        dtype: that it runs in.
        chat_template_sha256: "" for a model without a chat template.
    """

    model: str
    sha256: str
    n_layers: int
    d_model: int
    d_vocab: int
    dtype: str
    chat_template_sha256: str


@dataclass(frozen=True)
class SaeQuestion(Record):
    """What an SAE is, once it was loaded and checked against the model."""

    sae_id: str


@dataclass(frozen=True)
class SaeAnswer(Record):
    """An SAE that fits the model.

    Attributes:
        fvu: fraction of variance unexplained on a few sentences.
        warning: what speaks against it although it fits; "" for nothing.
        neuronpedia_id: what Neuronpedia calls it; None if its metadata do not tell.
    """

    sae_id: str
    sha256: str
    hook_point: str
    layer: int
    d_sae: int
    d_model: int
    fvu: float
    warning: str = ""
    neuronpedia_id: str | None = None


@dataclass(frozen=True)
class LatentQuestion(Record):
    """What a latent's weights say; answered by a ``LatentDetail``."""

    sae_id: str
    latent: LatentIndexNumber


@dataclass(frozen=True)
class PairQuestion(Record):
    """How strongly a latent fires on each pair of a ranking; answered by ``PairActivations``."""

    ranking: RankingRequest
    latent: LatentIndexNumber


@dataclass(frozen=True)
class PromptQuestion(Record):
    """How the model sees a prompt, token by token; answered by a ``PromptView``."""

    text: Annotated[str, MaxLen(MAX_TEXT)]
    chat: bool = True
    system: str = ""


@dataclass(frozen=True)
class EstimateQuestion(Record):
    """What a ranking would cost; answered by a ``WorkEstimate``."""

    ranking: RankingRequest


@dataclass(frozen=True)
class SizeQuestion(Record):
    """How large what an arm adds is; answered by a ``SizeAnswer``."""

    arm: Arm


@dataclass(frozen=True)
class SizeAnswer(Record):
    """The size of an arm; None where it adds nothing to the residual stream."""

    size: ArmSize | None


@dataclass(frozen=True)
class SpeedQuestion(Record):
    """How fast texts are written; answered by a ``SpeedAnswer``, which takes a second or two."""


@dataclass(frozen=True)
class SpeedAnswer(Record):
    """Tokens that many texts together gain in a second, measured now."""

    tokens_per_second: float


@dataclass(frozen=True)
class PromotedQuestion(Record):
    """The tokens that latents promote."""

    sae_id: str
    latents: Annotated[tuple[LatentIndexNumber, ...], MaxLen(1000)]
    n: Annotated[int, Interval(ge=1, le=50)] = 10


@dataclass(frozen=True)
class PromotedAnswer(Record):
    """For each latent the tokens that its decoder direction promotes most, the strongest first."""

    tokens: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TextQuestion(Record):
    """The latents of a text, token by token; answered by a ``TextReading``."""

    sae_id: str
    text: Annotated[str, MaxLen(MAX_TEXT)]
    chat: bool = False


@dataclass(frozen=True)
class LatentOnTextsQuestion(Record):
    """One latent on every token of some texts."""

    sae_id: str
    latent: LatentIndexNumber
    texts: Annotated[tuple[Annotated[str, MaxLen(MAX_TEXT)], ...], Len(1, 1000)]
    chat: bool = False


@dataclass(frozen=True)
class LatentOnText(Record):
    """The tokens of a text, and the activation of one latent on each."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class LatentOnTextsAnswer(Record):
    """A latent on each text, in their order."""

    texts: tuple[LatentOnText, ...]


@dataclass(frozen=True)
class TokenChangeQuestion(Record):
    """Which tokens a latent makes likelier; answered by a ``TokenChange``.

    Attributes:
        value: activation that the latent is set to on every token.
        contexts: token ids of texts that it is set in.
    """

    sae_id: str
    latent: LatentIndexNumber
    value: float
    contexts: Annotated[tuple[tuple[Annotated[int, Ge(0)], ...], ...], Len(1, 100)]


@dataclass(frozen=True)
class LearnRequest(Record):
    """What a source makes of an instruction's pairs.

    Attributes:
        ranking: pairs, reading position and selector; its SAE counts as one of ``sae_ids``.
        source: its name.
        parameters: of the source.
        method: steering method that writes what it makes; "" leaves it to the source.
        method_parameters: of that method.
        sae_ids: SAEs of the layers that are written after.
        layers: further blocks to write after.
        seed: of the source's random draws.
    """

    ranking: RankingRequest
    source: str
    parameters: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    method_parameters: dict[str, Any] = field(default_factory=dict)
    sae_ids: tuple[str, ...] = ()
    layers: tuple[Annotated[int, Ge(0)], ...] = ()
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class LearnResult(Record):
    """What a source made, and how it can be made again."""

    edits: tuple[Edit, ...]
    origin: Origin


@dataclass(frozen=True)
class VectorQuestion(Record):
    """What is in a vector of the residual stream; answered by a ``VectorReport``.

    Attributes:
        ranking: pairs whose mean difference is the vector, and whose prompts it is measured
            against.
        tensors: hash of the tensors that hold the vector, where it was uploaded.
        latents: latents whose steering vector it is.
        atoms: latents in the sum, at most.
    """

    sae_id: str
    ranking: RankingRequest | None = None
    tensors: str = ""
    latents: tuple[ChosenLatent, ...] = ()
    atoms: Annotated[int, Interval(ge=1, le=64)] = 64


@dataclass(frozen=True)
class ContrastRequest(Record):
    """Which latents tell two sets of texts apart; answered by a ``ContrastReport``."""

    sae_id: str
    first: Annotated[tuple[str, ...], MaxLen(20_000)]
    second: Annotated[tuple[str, ...], MaxLen(20_000)]
    chat: bool = False


@dataclass(frozen=True)
class ContrastedLatent(Record):
    """A latent that tells two sets of texts apart.

    Attributes:
        effect: Cohen's d on the ranking half.
        auc: chance that it is more active on a text of the first set, on the held-out half.
        p: of the AUC, two-sided, not corrected for the number of latents.
        promotes: tokens that it promotes.
    """

    latent: int
    effect: float
    auc: float
    p: float
    promotes: tuple[str, ...]


@dataclass(frozen=True)
class ContrastReport(Record):
    """The latents of the largest effect, the largest first.

    Attributes:
        n_ranking, n_held_out: texts in the two halves.
    """

    best: tuple[ContrastedLatent, ...]
    n_ranking: int
    n_held_out: int


@dataclass(frozen=True)
class HealthRequest(Record):
    """Measure an SAE on short texts of several languages."""

    sae_id: str


@dataclass(frozen=True)
class HealthReport(Record):
    """An SAE on every kind of text that it was measured on."""

    texts: tuple[TextMeasurement, ...]


@dataclass(frozen=True)
class IndexReport(Record):
    """The indexes that reading a corpus made, one for each SAE.

    Attributes:
        n_left_out: conversations that are in none of them, as the chat template refuses them.
    """

    indexes: tuple[LatentIndex, ...]
    n_left_out: int = 0


@dataclass(frozen=True)
class DescribeRequest(Record):
    """Have a language model describe a latent, and test the description.

    Attributes:
        chosen: the latent, with its largest activation.
        evidence: what is known of it.
        others: latents of the same SAE, at least two, whose texts its own are told apart from.
    """

    sae_id: str
    sae_sha256: str
    chosen: ChosenLatent
    evidence: Evidence
    others: tuple[ChosenLatent, ...]
