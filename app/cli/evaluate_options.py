"""What ``saif evaluate`` is given: contents to test on, and what is compared."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from app.cli.candidates import make_candidates, named_candidates, tried_values
from app.cli.groups import (
    ContentsOption,
    InstructionOption,
    LatentsOption,
    Places,
    VectorOption,
)
from app.cli.options import Of
from app.cli.requests import Opened, read_contents
from app.cli.values import chosen_names, numbers, whole_numbers
from saif_core.errors import HookPointError
from saif_core.inputs.latent_lists import parse_latents
from saif_core.records.evaluation import (
    BASELINES,
    CONTROLS,
    BaselineKind,
    Candidate,
    EvaluationRequest,
)
from saif_core.records.prompts import InstructionPosition
from saif_core.records.steering import ControlKind

STRENGTHS = ",".join(f"{strength:g}" for strength in EvaluationRequest.strengths)


@dataclass(frozen=True)
class Tested:
    """What sources learn from, and what is tested on."""

    instruction: InstructionOption
    contents: ContentsOption = None
    n: Annotated[
        int, typer.Option("--n", min=2, help="How many contents to test on, from the last back.")
    ] = 100
    rank_contents: Annotated[
        int,
        typer.Option(
            "--rank-contents", min=1, help="How many contents to learn from, from the first on."
        ),
    ] = 32
    position: Annotated[InstructionPosition, Of(EvaluationRequest)] = EvaluationRequest.position

    def split(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Contents to learn from, and contents to test on.

        Raises:
            SaifError: there are too few, or the file is bad.
        """
        from saif_core.evaluating.splitting import split_contents

        return split_contents(read_contents(self.contents), self.rank_contents, self.n)


@dataclass(frozen=True)
class Arms:
    """What is compared."""

    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="NAME",
            show_default="saif, denoised, mean_difference",
            help="A source to steer with, or SOURCE:METHOD for one that another steering method "
            "writes, such as saif:clamp; with +prompt behind it the instruction stands in the "
            "prompt as well; none for none. May be given several times.",
        ),
    ] = None
    source_parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--source-parameter",
            metavar="SOURCE.NAME=V,…",
            show_default=False,
            help="Values to try of a parameter, such as saif.top=5,15; may be given several times.",
        ),
    ] = None
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default="that of each source",
            help="Steering method that writes the edits of sources that name none.",
        ),
    ] = ""
    method_parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--method-parameter",
            metavar="METHOD.NAME=V,…",
            show_default=False,
            help="Values to try of a method's parameter; may be given several times.",
        ),
    ] = None
    latents: LatentsOption = ""
    vector: VectorOption = None
    strengths: Annotated[
        str,
        typer.Option(
            "--strengths",
            metavar="S,…",
            help="Steering strengths; 1 = as strongly as on instructed prompts.",
        ),
    ] = STRENGTHS
    together: Annotated[bool, Of(EvaluationRequest)] = EvaluationRequest.together
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="NAME",
            show_default="unsteered, prompted",
            help="An arm that steers nothing: unsteered or prompted; none for none. May be given "
            "twice.",
        ),
    ] = None
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="NAME",
            show_default="random",
            help="A control beside each candidate: random, flipped, logit-bias or cue-token; none "
            "for none. May be given several times.",
        ),
    ] = None
    controls_of: Annotated[Literal["best", "all"], Of(EvaluationRequest)] = (
        EvaluationRequest.controls_of
    )
    keep_norm: Annotated[bool, Of(EvaluationRequest)] = EvaluationRequest.keep_norm

    @property
    def baselines(self) -> tuple[BaselineKind, ...]:
        """The chosen baselines."""
        return chosen_names("--baseline", "baseline", self.baseline, BASELINES, BASELINES)

    @property
    def controls(self) -> tuple[ControlKind, ...]:
        """The chosen controls."""
        return chosen_names(
            "--control", "control", self.control, CONTROLS, EvaluationRequest.controls
        )

    def check(self, places: Places) -> None:
        """Refuse what can be told before anything is loaded.

        Raises:
            SaifError: a list or a name cannot be used.
        """
        _ = self.baselines, self.controls
        numbers("--strengths", self.strengths)
        parse_latents(self.latents)
        tried_values("--source-parameter", self.source_parameter)
        tried_values("--method-parameter", self.method_parameter)
        if self.together and _n_places(places) < 2:
            raise HookPointError(
                "--together steers at several layers at once, but there is only one; name several "
                "with --layers."
            )

    def candidates(self, here: Opened) -> tuple[Candidate, ...]:
        """Everything that is steered with.

        Raises:
            SaifError: a source, method or parameter does not exist or fit.
        """
        given = [Candidate("basket", {"latents": (self.latents,)})] if self.latents else []
        if self.vector is not None:
            from app.cli.vectors import upload_vector

            given.append(Candidate("vector", {"tensors": (upload_vector(here, self.vector),)}))
        return make_candidates(
            named_candidates(self.source, self.method),
            tried_values("--source-parameter", self.source_parameter),
            tried_values("--method-parameter", self.method_parameter),
            given,
        )


def _n_places(places: Places) -> int:
    layers = whole_numbers("--layers", places.layers)
    further = whole_numbers("--further-layers", places.further_layers)
    return len(layers or places.sae or ()) + len(further)
