"""Arms of the Compare page beside unsteered and steered: made, followed, taken from elsewhere."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.dashboard.work import Work
from app.presentation.arms import CONTROL_WORDS
from saif_core.inputs.latent_lists import format_latents
from saif_core.records.as_json import new_id
from saif_core.records.evaluation import CONTROLS
from saif_core.records.questions import LearnRequest
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm, ControlKind, Edit, GenerationRequest, Schedule
from saif_core.registry import SOURCES, STEERING_METHODS

# Unsteered and steered are two of them.
MAX_ARMS = 8
MAX_NAME = 60
MAX_INSTRUCTION = 2000
OWN_NAMES = ("unsteered", "steered")
# Parameters that the page fills in: latents as a list of them, and the hash of an uploaded vector.
LATENTS, TENSORS = "latents", "tensors"


@dataclass(frozen=True)
class SourceChoice:
    """What a source is asked for.

    Attributes:
        parameters: of the source.
        method: that writes what it makes; "" leaves it to the source.
        sae_id: SAE of the layer; "" without one.
        layer: block after which is written.
    """

    source: str
    parameters: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    method_parameters: dict[str, Any] = field(default_factory=dict)
    sae_id: str = ""
    layer: int = 0

    @property
    def lacks(self) -> bool:
        """Whether something has to be given before it can be asked for."""
        return any(
            self.parameters.get(one.name) in (None, "")
            for one in SOURCES.get(self.source).parameters
            if one.required
        )

    @property
    def waits(self) -> bool:
        """Whether a file is to be uploaded first."""
        return self.parameters.get(TENSORS) == ""

    def request(self, work: Work) -> LearnRequest:
        """The request for it; a source that needs no pairs does without a ranking."""
        pairs = work.ranking_request or RankingRequest(work.sae_id, work.instruction, ())
        # What is trained learns from answers, which somebody has to judge.
        judged_by = pairs.judged_by or work.instruction_record()
        return LearnRequest(
            replace(pairs, judged_by=judged_by),
            self.source,
            dict(self.parameters),
            self.method,
            dict(self.method_parameters),
            sae_ids=(self.sae_id,) if self.sae_id else (),
            layers=() if self.sae_id else (self.layer,),
        )


@dataclass
class CompareArm:
    """An arm that the page shows.

    Attributes:
        arm: what it does; what it follows is filled in as a request is made.
        on_dial: its strength is the dial's.
        follows: its edits are those of the steered arm.
        keep_norm: whether its edits keep the norm; None leaves each as it is.
        choice: what makes its edits, where a source does.
        made: what made those that it has.
        job_id: the job that makes others, until it has.
        asked: what that job was asked for.
        upload_id: of the file that its vector was read from.
        uid: begins its widget keys.
    """

    arm: Arm
    on_dial: bool = True
    follows: bool = False
    keep_norm: bool | None = None
    choice: SourceChoice | None = None
    made: SourceChoice | None = None
    job_id: str = ""
    asked: SourceChoice | None = None
    upload_id: str = ""
    uid: str = field(default_factory=new_id)

    def now(self, work: Work, steered: Arm) -> Arm:
        """The arm with everything that it follows.

        Args:
            steered: the arm of the basket and the dial.
        """
        arm = replace(self.arm, strength=work.strength) if self.on_dial else self.arm
        edits = steered.edits if self.follows else arm.edits
        if self.keep_norm is not None:
            edits = tuple(replace(edit, keep_norm=self.keep_norm) for edit in edits)
        return replace(arm, edits=edits)

    def copy(self, taken: Collection[str]) -> "CompareArm":
        """The same once more, under a name that is free."""
        arm = replace(self.arm, name=free_name(self.arm.name, taken))
        return replace(self, arm=arm, uid=new_id())


def prompted_arm(work: Work, taken: Collection[str]) -> CompareArm:
    """An arm that is told the instruction in hand, or that of the pairs in hand.

    Args:
        taken: names of the arms that exist.
    """
    instruction = work.instruction_record()
    pairs = work.ranking_request.pairs if work.ranking_request else ()
    told = [wording.text for wording in instruction.wordings] if instruction else []
    told += [pair.instruction for pair in pairs if pair.instruction and instruction is None]
    wording = told[0][:MAX_INSTRUCTION] if told else ""
    return CompareArm(Arm(free_name("prompted", taken), "prompted", instruction=wording))


def control_arm(kind: ControlKind, schedule: Schedule, taken: Collection[str]) -> CompareArm:
    """A control of the steered arm, whose schedule it begins with."""
    name = free_name(CONTROL_WORDS[kind], taken)
    return CompareArm(Arm(name, kind, schedule=schedule), follows=True)


def source_arm(
    source: str, work: Work, schedule: Schedule, taken: Collection[str], layer: int
) -> CompareArm:
    """An arm whose edits a source is to make, with the basket as it is now where it takes one.

    Args:
        layer: block of the SAE in hand.
    """
    parameters = {
        one.name: format_latents(work.basket_latents()) if one.name == LATENTS else one.default
        for one in SOURCES.get(source).parameters
        if not one.required or one.name == LATENTS
    }
    choice = SourceChoice(source, parameters, sae_id=work.sae_id, layer=layer)
    name = free_name(source.replace("_", " ")[:MAX_NAME], taken)
    return CompareArm(Arm(name, schedule=schedule), choice=choice)


def main_arm(arms: Sequence[Arm]) -> Arm | None:
    """The first arm that can be shown as basket and dial: latents of one SAE, nothing else."""
    return next((arm for arm in arms if arm.kind == "steered" and _is_basket(arm.edits)), None)


def _is_basket(edits: Sequence[Edit]) -> bool:
    return len(edits) == 1 and bool(edits[0].latents) and _is_plain(edits[0])


def _is_plain(edit: Edit) -> bool:
    return edit.share == 1 and not edit.tensors and edit.method in STEERING_METHODS


def further_arms(arms: Sequence[Arm], main: Arm | None) -> list[CompareArm]:
    """The arms of a request beside the unsteered one and the one that is shown as basket and dial.

    Args:
        main: that one; what has its strength or its edits follows it.
    """
    plain = next((arm for arm in arms if arm.kind == "unsteered"), None)
    found: list[CompareArm] = []
    for arm in arms:
        if arm not in (main, plain):
            taken = [*OWN_NAMES, *(one.arm.name for one in found)]
            found.append(take_arm(arm, taken, main))
    return found


def take_arm(arm: Arm, taken: Collection[str], main: Arm | None = None) -> CompareArm:
    """An arm that was set elsewhere, as it is.

    Args:
        taken: names of the arms that exist.
        main: see ``further_arms``.
    """
    choice = _choice_of(arm)
    theirs = main.edits if main else ()
    follows = arm.kind in CONTROLS and _same_but_norm(arm.edits, theirs)
    return CompareArm(
        replace(arm, name=free_name(arm.name[:MAX_NAME], taken)),
        on_dial=main is not None and arm.steers and arm.strength == main.strength,
        follows=follows,
        keep_norm=arm.edits[0].keep_norm if follows and arm.edits != theirs else None,
        choice=choice,
        made=choice,
    )


def _same_but_norm(edits: Sequence[Edit], others: Sequence[Edit]) -> bool:
    plain, other = ([replace(e, keep_norm=False) for e in one] for one in (edits, others))
    return plain == other and len({edit.keep_norm for edit in edits}) == 1


def _choice_of(arm: Arm) -> SourceChoice | None:
    """What can make the edits of an arm again; None if no source here does."""
    if arm.kind != "steered" or len(arm.edits) != 1:
        return None
    (edit,) = arm.edits
    if arm.origin is not None and arm.origin.source in SOURCES:
        source, parameters = arm.origin.source, dict(arm.origin.parameters)
    elif arm.origin is None and _is_basket(arm.edits) and "basket" in SOURCES:
        source, parameters = "basket", {LATENTS: format_latents(edit.latents)}
    else:
        return None
    own = edit.method not in STEERING_METHODS
    return SourceChoice(
        source,
        parameters,
        "" if own else edit.method,
        {} if own else dict(edit.method_parameters),
        edit.sae_id,
        edit.layer,
    )


def free_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or with the first number that no other arm has."""
    stem = name.rstrip("0123456789").rstrip() or name
    numbered = (f"{stem[: MAX_NAME - 4]} {number}" for number in range(2, len(taken) + 3))
    return next(one for one in (name, *numbered) if one not in taken)


def sae_at(layer: int, work: Work, layers: Mapping[str, int]) -> str:
    """The SAE that is offered for a layer, that in hand if there are several; "" for none.

    Args:
        layers: of every SAE that is offered, by its id.
    """
    found = [sae_id for sae_id, at in layers.items() if at == layer]
    return work.sae_id if work.sae_id in found else next(iter(found), "")


def request_problem(request: GenerationRequest, offered: Collection[str]) -> str:
    """Why a request cannot be carried out, as a sentence; "" if it can.

    Args:
        offered: ids of the SAEs of this installation.
    """
    from saif_core.engine.tasks import MAX_TEXTS

    arms = request.arms
    if not request.prompts:
        return "Write a prompt first."
    if all(arm.kind == "unsteered" for arm in arms):
        return "Choose at least one latent first."
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"Two arms are called “{twice}”; give each a name of its own."
    if len(arms) > MAX_ARMS:
        return f"There are {len(arms)} arms, but the page compares at most {MAX_ARMS}; remove some."
    if request.n_texts > MAX_TEXTS:
        return (
            f"{_count(request)} are {request.n_texts} texts, but at most {MAX_TEXTS} are written "
            "at once; take fewer of one of them."
        )
    return next((problem for arm in arms if (problem := _problem(arm, offered))), "")


def missing_sae(arm: Arm, offered: Collection[str]) -> str:
    """An SAE that an arm needs and this installation does not offer; "" if it has all.

    Ids come from files too: only what is offered is ever loaded.
    """
    needed = (edit.sae_id for edit in arm.edits if edit.sae_id or edit.latents)
    return next((sae_id or "?" for sae_id in needed if sae_id not in offered), "")


def _count(request: GenerationRequest) -> str:
    samples = request.sampling.samples
    return f"{len(request.prompts)} prompts × {len(request.arms)} arms" + (
        f" × {samples} samples" if samples > 1 else ""
    )


def _problem(arm: Arm, offered: Collection[str]) -> str:
    if not arm.name.strip():
        return "An arm has no name; give it one."
    if arm.kind == "prompted":
        if arm.instruction.strip():
            return ""
        return f"Arm “{arm.name}” has no instruction; write one."
    if arm.kind == "unsteered":
        return ""
    if missing := missing_sae(arm, offered):
        return f"Arm “{arm.name}” needs the SAE {missing}, not offered here; remove it."
    if not arm.edits or not all(edit.writes_something for edit in arm.edits):
        return f"Arm “{arm.name}” has nothing to steer with yet; make that, or remove the arm."
    return ""
