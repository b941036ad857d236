"""From what was typed to arms: sources are run, controls matched, prompts worded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.cli.arm_specs import METHOD, PROMPTED, ArmSpec
from app.cli.output import wait_for
from app.cli.requests import Opened, choose_sae
from app.cli.values import typed_values, whole_numbers
from saif_core.errors import SteeringError
from saif_core.records.evaluation import CONTROLS
from saif_core.records.prompts import InstructionPosition
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm, Schedule

if TYPE_CHECKING:  # imports numpy
    from saif_core.records.questions import LearnResult

STEERED = "steered"


@dataclass(frozen=True)
class ArmMaker:
    """Makes the arms of one request.

    Attributes:
        ranking: pairs and selector that sources learn from.
        sae_ids, layers: where the edits go, unless an arm says otherwise.
        strength, schedule, keep_norm, seed: of arms that do not say otherwise.
        wording, position: the instruction of a prompted arm, and where it stands.
    """

    here: Opened
    ranking: RankingRequest
    sae_ids: tuple[str, ...]
    layers: tuple[int, ...] = ()
    strength: float = Arm.strength
    schedule: Schedule = Arm.schedule
    keep_norm: bool = False
    seed: int = 0
    wording: str = ""
    position: InstructionPosition = "after"

    def steered(self, spec: ArmSpec, name: str) -> Arm:
        """What a source makes, as an arm.

        Raises:
            SaifError: the source, its method or their parameters do not exist or fit.
        """
        made = self._learn(spec)
        keep_norm = spec.keep_norm(self.keep_norm)
        return Arm(
            spec.texts.get("name", name),
            edits=tuple(replace(x, keep_norm=x.keep_norm or keep_norm) for x in made.edits),
            strength=spec.fields_of(Arm).get("strength", self.strength),
            schedule=spec.schedule(self.schedule),
            seed=self.seed,
            origin=made.origin,
        )

    def arm(self, spec: ArmSpec, others: Sequence[Arm]) -> Arm:
        """Any arm.

        Args:
            others: those made before, which a control may be matched to.

        Raises:
            SaifError: it cannot be made; the message says why.
        """
        # Arms of one kind are told apart by all that was written.
        taken = {arm.name for arm in others}
        name = spec.text if spec.head in taken else spec.head
        if spec.head == PROMPTED:
            return self._prompted(spec, name)
        return self._control(spec, name, others) if spec.is_control else self.steered(spec, name)

    def _prompted(self, spec: ArmSpec, name: str) -> Arm:
        given = {"name": name, "instruction": self.wording, "position": self.position}
        arm = Arm(kind="prompted", **given | spec.fields_of(Arm))
        if not arm.instruction.strip():
            raise SteeringError(
                "--arm prompted has no instruction to put into the prompt; give --instruction, or "
                "write prompted:instruction=TEXT."
            )
        return arm

    def _control(self, spec: ArmSpec, name: str, others: Sequence[Arm]) -> Arm:
        of = spec.texts.get("of", "")
        steered = [arm for arm in others if arm.kind == "steered" and of in ("", arm.name)]
        if not steered:
            raise SteeringError(
                f"--arm {spec.text!r} is a control, but no steered arm {of or 'at all'!r} stands "
                "before it to be matched to; name one that does."
            )
        kind = next(control for control in CONTROLS if control == spec.head)
        arm = replace(steered[0], name=name, kind=kind, seed=self.seed)
        return replace(arm, schedule=spec.schedule(arm.schedule), **spec.fields_of(Arm))

    def _learn(self, spec: ArmSpec) -> "LearnResult":
        from saif_core.records.questions import LearnRequest
        from saif_core.registry import SOURCES, STEERING_METHODS, find_writer

        method, texts = spec.texts.get("method", ""), spec.below(METHOD)
        if texts and not method:
            raise SteeringError(
                f"Parameters of a steering method were given ({', '.join(texts)}), but no method; "
                "name it with --method, or method= in --arm."
            )
        sae_ids, layers = self._places(spec)
        source = SOURCES.get(spec.head)
        request = LearnRequest(
            ranking=replace(self.ranking, sae_id=sae_ids[0] if sae_ids else ""),
            source=spec.head,
            parameters=typed_values(source, SOURCES.kind, spec.source_parameters()),
            method=method,
            method_parameters=typed_values(find_writer(method), STEERING_METHODS.kind, texts)
            if method
            else {},
            sae_ids=sae_ids,
            layers=layers,
            seed=self.seed,
        )
        made: LearnResult = wait_for(self.here.engine.submit(request))
        return made

    def _places(self, spec: ArmSpec) -> tuple[tuple[str, ...], tuple[int, ...]]:
        chosen = whole_numbers(f"In --arm {spec.text!r}, layers", spec.texts.get("layers", ""))
        if not chosen:
            return self.sae_ids, self.layers
        offered, model = self.here.engine.saes(), self.here.settings.model
        return tuple(choose_sae(offered, layer, model) for layer in chosen), ()
