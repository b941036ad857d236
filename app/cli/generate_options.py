"""What ``saif generate`` is given: prompts, what is steered with, and further arms."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from app.cli.arm_specs import METHOD, SOURCE, ArmSpec, parse_arm
from app.cli.groups import (
    LatentsOption,
    MethodParameterOption,
    SourceParameterOption,
    VectorOption,
)
from app.cli.options import Of
from app.cli.values import named_values
from saif_core.errors import SaifError, SteeringError
from saif_core.records.as_json import from_json
from saif_core.records.prompts import Turn
from saif_core.records.steering import Arm, Edit, GenerationRequest

DEFAULT_SOURCE = "saif"


@dataclass(frozen=True)
class Asked:
    """Prompts, and what is done with their texts."""

    prompt: Annotated[
        list[str], typer.Option("--prompt", metavar="TEXT", help="Prompt; repeat it for several.")
    ]
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            exists=True,
            dir_okay=False,
            show_default=False,
            help='Earlier turns of the chat, for every arm: a JSON list of {"role": "user" or '
            '"assistant", "text": …}.',
        ),
    ] = None
    divergence: Annotated[bool, Of(GenerationRequest)] = GenerationRequest.divergence
    save: Annotated[
        str,
        typer.Option(
            "--save", metavar="NAME", show_default=False, help="Save it as a session of this name."
        ),
    ] = ""

    def turns(self) -> tuple[Turn, ...]:
        """The earlier turns.

        Raises:
            SaifError: the file holds none.
        """
        if self.history is None:
            return ()
        try:
            found = json.loads(self.history.read_text(encoding="utf-8"))
            return tuple(from_json(Turn, turn) for turn in found)
        except (ValueError, TypeError) as error:
            raise SaifError(
                f"--history {self.history.name!r} is no JSON list of turns ({error}); give each "
                'as {"role": "user" or "assistant", "text": …}.'
            ) from error


@dataclass(frozen=True)
class Steered:
    """What is steered with."""

    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="NAME",
            show_default="for a shipped instruction what measured best, else saif",
            help="What makes the edits, such as saif, denoised or mean_difference; see "
            "`saif methods`.",
        ),
    ] = ""
    source_parameter: SourceParameterOption = None
    latents: LatentsOption = ""
    vector: VectorOption = None
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default="that of the source",
            help="Steering method that writes the edits.",
        ),
    ] = ""
    method_parameter: MethodParameterOption = None
    strength: Annotated[float, Of(Arm)] = Arm.strength
    keep_norm: Annotated[bool, Of(Edit)] = Edit.keep_norm
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            metavar="SPEC",
            show_default=False,
            help="A further arm: prompted, a source, or a control of the steered arm (random, "
            "flipped, logit-bias, cue-token); with values as in saif:top=5,method=clamp. May be "
            "given several times.",
        ),
    ] = None

    @property
    def leaves_the_choice(self) -> bool:
        """Whether nothing is said of what steers, so that a recipe may."""
        said = (self.source, self.source_parameter, self.latents, self.method, self.vector)
        return not any(said) and self.keep_norm == Edit.keep_norm

    def specs(self, pairs_given: bool) -> tuple[ArmSpec | None, tuple[ArmSpec, ...]]:
        """The arm of the options, if they make one, and the further arms.

        Raises:
            SaifError: they make none, or contradict each other.
        """
        further = tuple(parse_arm(text) for text in self.arm or ())
        main = self._main(pairs_given)
        if main is None and not any(spec.has_source for spec in further):
            raise SteeringError(
                "There is nothing to steer with; give --latents, --vector, --source, or "
                "--instruction or --pairs for the source 'saif'."
            )
        return main, further

    def _main(self, pairs_given: bool) -> ArmSpec | None:
        made_by = {"basket": bool(self.latents), "vector": self.vector is not None}
        found = [name for name, is_given in made_by.items() if is_given]
        named = [name for name in found if self.source not in ("", name)]
        if len(found) > 1 or named:
            raise SteeringError(
                "--latents makes the source 'basket' and --vector the source 'vector'; give one "
                "of these, or --source."
            )
        source = self.source or next(iter(found), DEFAULT_SOURCE if pairs_given else "")
        texts = named_values("--source-parameter", self.source_parameter)
        given = {SOURCE + name: text for name, text in texts.items()}
        if self.latents:
            given |= {f"{SOURCE}latents": self.latents}
        if self.method:
            given |= {"method": self.method}
        texts = named_values("--method-parameter", self.method_parameter)
        given |= {METHOD + name: text for name, text in texts.items()}
        if not source and given:
            raise SteeringError("Parameters were given, but no source; name it with --source.")
        return ArmSpec(source, source, given) if source else None
