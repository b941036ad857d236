"""Arms of the Compare page beside unsteered and steered: made, followed, taken from sessions."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from app.dashboard.fields.schedule_fields import Schedule
from app.dashboard.work import MAX_STRENGTH, Work
from app.presentation.arms import ARM_NAMES
from saif_core.records.as_json import new_id
from saif_core.records.evaluation import CellSetting
from saif_core.records.ranking import Ranking
from saif_core.records.steering import Arm, ArmKind, GenerationRequest, SteeringEdit, SteeringRecipe

ArmChoice = Literal[
    "prompted",
    "one-latent",
    "clamp",
    "ablate",
    "denoised",
    "mean-difference",
    "random",
    "flipped",
    "logit-bias",
]
ARM_CHOICES: tuple[ArmChoice, ...] = get_args(ArmChoice)
CONTROLS: tuple[ArmKind, ...] = ("random", "flipped", "logit-bias")
# Unsteered and steered are two of them.
MAX_ARMS = 8
MAX_SAMPLES = 8
MAX_NAME = 60
MAX_INSTRUCTION = 2000
DENOISED_TOP = 60


@dataclass
class LabArm:
    """An arm that the page shows.

    Attributes:
        arm: what it does; what it follows is filled in as a request is made.
        on_dial: its strength is the dial's.
        on_basket: its latents are those of the basket.
        choice: what it was added as, where its card offers more to choose.
        job_id: the job that computes its vector, until it has.
        uid: begins its widget keys.
    """

    arm: Arm
    on_dial: bool = True
    on_basket: bool = False
    choice: ArmChoice | None = None
    job_id: str = ""
    uid: str = field(default_factory=new_id)

    def now(self, work: Work, steered: Arm) -> Arm:
        """The arm with everything that it follows.

        Args:
            steered: the arm of the basket and the dial, which controls are controls of.
        """
        arm = self.arm
        if self.on_dial:
            arm = replace(arm, strength=work.strength)
        if not self.on_basket:
            return arm
        if arm.kind in CONTROLS:
            return replace(arm, edits=steered.edits)
        edit = replace(arm.edits[0], sae_id=work.sae_id, latents=work.basket_latents())
        return replace(arm, edits=(edit,))

    def copy(self, taken: Collection[str]) -> "LabArm":
        """The same once more, under a name that is free."""
        arm = replace(self.arm, name=free_name(self.arm.name, taken))
        return replace(self, arm=arm, uid=new_id())


def new_arm(
    choice: ArmChoice, work: Work, schedule: Schedule, taken: Collection[str], *, layer: int
) -> LabArm:
    """An arm of the chosen kind with what there is to make it of.

    Args:
        schedule: of the steered arm, which it begins with.
        taken: names of the arms that exist.
        layer: block that a mean difference is added after.
    """
    arm = Arm(free_name(ARM_NAMES[choice], taken), **asdict(schedule))
    if choice == "prompted":
        instruction = work.instruction_record()
        wording = instruction.wordings[0].text if instruction and instruction.wordings else ""
        return LabArm(replace(arm, kind="prompted", instruction=wording))
    if choice == "one-latent":
        edit = SteeringEdit(work.sae_id, work.basket_latents()[:1])
        return LabArm(replace(arm, edits=(edit,)), choice=choice)
    if choice == "denoised":
        edit = denoised_edit(work.ranking, DENOISED_TOP)
        return LabArm(replace(arm, edits=(edit,)), choice=choice)
    if choice == "mean-difference":
        return LabArm(replace(arm, edits=(SteeringEdit(layer=layer),)))
    if choice == "clamp" or choice == "ablate":
        edit = SteeringEdit(work.sae_id, method=choice)
        return LabArm(replace(arm, edits=(edit,)), on_basket=True)
    return LabArm(replace(arm, kind=choice, edits=(SteeringEdit(),)), on_basket=True)


def layers_arm(setting: CellSetting, edits: Sequence[SteeringEdit], schedule: Schedule) -> LabArm:
    """What an evaluation steered in several layers at once, which share the strength."""
    name = f"layers {' and '.join(map(str, setting.layers))}"[:MAX_NAME]
    strength = (setting.strength or 0.0) / len(edits)
    return LabArm(
        Arm(name, edits=tuple(edits), strength=strength, **asdict(schedule)), on_dial=False
    )


def denoised_edit(ranking: Ranking | None, top: int) -> SteeringEdit:
    """Latents of a ranking with the largest mean differences, as coefficients."""
    from saif_core.finding.sources.denoised import denoised_latents

    if ranking is None:
        return SteeringEdit()
    return SteeringEdit(ranking.sae, denoised_latents(ranking, top))


def saved_arms(recipe: SteeringRecipe) -> list[LabArm]:
    """The further arms of a session; one with the strength or latents of the steered follows it."""
    return [_saved_arm(arm, recipe) for arm in recipe.arms]


def _saved_arm(arm: Arm, recipe: SteeringRecipe) -> LabArm:
    ours = [(edit.sae_id, edit.latents) for edit in arm.edits] == [(recipe.sae, recipe.latents)]
    # An arm that adds the same latents may hold a single one, or those of a ranking.
    on_basket = ours and (arm.kind in CONTROLS or arm.edits[0].method in ("clamp", "ablate"))
    strength = min(max(arm.strength, -MAX_STRENGTH), MAX_STRENGTH)
    shown = replace(
        arm,
        name=arm.name[:MAX_NAME],
        strength=strength,
        instruction=arm.instruction[:MAX_INSTRUCTION],
        seed=min(max(arm.seed, 0), 2**31 - 1),
        **asdict(Schedule.of(arm)),
    )
    is_one_latent = arm.kind == "steered" and [len(e.latents) for e in arm.edits] == [1]
    return LabArm(
        shown,
        on_dial=arm.strength == recipe.strength,
        on_basket=on_basket,
        choice="one-latent" if is_one_latent and not on_basket else None,
    )


def free_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or with the first number that no other arm has."""
    stem = name.rstrip("0123456789").rstrip() or name
    numbered = (f"{stem[: MAX_NAME - 4]} {number}" for number in range(2, len(taken) + 3))
    return next(one for one in (name, *numbered) if one not in taken)


def request_problem(request: GenerationRequest, offered: Collection[str]) -> str:
    """Why a request cannot be carried out, as a sentence; "" if it can.

    Args:
        offered: ids of the SAEs of this installation.
    """
    from saif_core.engine.engine import MAX_TEXTS

    arms = request.all_arms
    if not request.prompts:
        return "Write a prompt first."
    if not request.latents:
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
    return next((problem for arm in request.arms if (problem := _problem(arm, offered))), "")


def _count(request: GenerationRequest) -> str:
    return f"{len(request.prompts)} prompts × {len(request.all_arms)} arms" + (
        f" × {request.samples} samples" if request.samples > 1 else ""
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
    for edit in arm.edits:
        # Ids come from files too: only what this installation offers is ever loaded.
        if edit.latents and edit.sae_id not in offered:
            return f"Arm “{arm.name}” needs the SAE {edit.sae_id}, not offered here; remove it."
    if not _writes_something(arm.edits):
        return f"Arm “{arm.name}” has nothing to steer with yet; wait for its vector or remove it."
    return ""


def _writes_something(edits: Sequence[SteeringEdit]) -> bool:
    return bool(edits) and all(edit.latents or edit.vector for edit in edits)
