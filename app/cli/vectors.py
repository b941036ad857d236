"""``saif vector …``: what is in a vector of the residual stream, and vectors as files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.arm_specs import SOURCE, ArmSpec
from app.cli.arms import ArmMaker
from app.cli.groups import (
    LatentsOption,
    Pairs,
    Place,
    Reading,
    Selecting,
    SourceParameterOption,
    VectorOption,
)
from app.cli.options import JsonOption, Of, add_command
from app.cli.output import answering, wait_for
from app.cli.requests import (
    NO_PAIRS,
    Opened,
    opened_at,
    ranking_request,
    read_pairs,
)
from app.cli.texts import vector_text
from app.cli.values import named_values
from saif_core.errors import SteeringError
from saif_core.inputs.latent_lists import parse_latents
from saif_core.records.as_json import to_json
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm, Edit

if TYPE_CHECKING:  # imports numpy
    from saif_core.records.questions import VectorQuestion
    from saif_core.records.vectors import VectorReport

MOST_ATOMS = 64
VECTOR = "vector"

app = typer.Typer(
    help="Take vectors apart, and write them to files.",
    rich_markup_mode=None,
    no_args_is_help=False,
)
ChatOption = Annotated[bool, Of(RankingRequest)]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        dir_okay=False,
        show_default=False,
        help="Write the vector to this .safetensors file.",
    ),
]


@dataclass(frozen=True)
class Origins:
    """Where a vector comes from besides pairs: exactly one of these, or a source of the pairs."""

    vector: VectorOption = None
    latents: LatentsOption = ""
    session: Annotated[
        str,
        typer.Option(
            "--session", metavar="ID", show_default=False, help="A session, whose arm it is."
        ),
    ] = ""
    arm: Annotated[
        str,
        typer.Option(
            "--arm",
            metavar="NAME",
            show_default="the first steered one",
            help="Arm of the session.",
        ),
    ] = ""
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="NAME",
            show_default="mean_difference",
            help="Source that makes it of the pairs.",
        ),
    ] = ""
    source_parameter: SourceParameterOption = None

    def check(self, pairs: Pairs) -> None:
        """Refuse anything but one origin.

        Raises:
            SteeringError: there is none, or more than one.
        """
        given = {
            "--vector": self.vector is not None,
            "--latents": bool(self.latents),
            "--session": bool(self.session),
            "--instruction or --pairs": pairs.given,
        }
        if sum(given.values()) != 1:
            raise SteeringError(f"Give either {', '.join(given)}: a vector comes from one.")
        if self.source and not pairs.given:
            raise SteeringError("--source makes a vector of pairs; give --instruction or --pairs.")


class Making:
    """What makes a vector, read and checked before anything is loaded."""

    def __init__(
        self, origins: Origins, pairs: Pairs, reading: Reading, selecting: Selecting, chat: bool
    ) -> None:
        origins.check(pairs)
        self._origins, self._reading, self._selecting = origins, reading, selecting
        self._given = read_pairs(pairs) if pairs.given else NO_PAIRS
        self._chat = chat

    def question(self, here: Opened, sae_id: str) -> "VectorQuestion":
        """What asks for the vector.

        Raises:
            SaifError: it cannot be made; the message says why.
        """
        from saif_core.records.questions import VectorQuestion

        origins = self._origins
        if origins.vector is not None:
            return VectorQuestion(sae_id, tensors=upload_vector(here, origins.vector))
        if origins.latents:
            return VectorQuestion(sae_id, latents=parse_latents(origins.latents))
        if origins.session:
            edit = _edit_at(here, _arm_of(here, origins), sae_id)
            return VectorQuestion(edit.sae_id or sae_id, None, edit.tensors, edit.latents)
        ranking = ranking_request(
            self._given,
            sae_id,
            self._reading,
            self._selecting,
            chat=self._chat,
            top=RankingRequest.top,
        )
        if origins.source in ("", "mean_difference"):
            return VectorQuestion(sae_id, ranking)
        edit = _edit_at(here, _made(here, origins, ranking), sae_id)
        return VectorQuestion(sae_id, ranking, edit.tensors, edit.latents)


def show_vector(
    origins: Origins,
    pairs: Pairs,
    reading: Reading,
    selecting: Selecting,
    place: Place,
    chat: ChatOption = RankingRequest.chat,
    atoms: Annotated[
        int, typer.Option("--atoms", min=1, max=MOST_ATOMS, help="Latents in the sum, at most.")
    ] = 15,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a vector apart into latents.

    The vector is in a file, of latents, of an arm of a session, or what a source makes of an
    instruction: the mean difference of the residual stream with and without it, unless named.
    """
    made = Making(origins, pairs, reading, selecting, chat)
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        question = replace(made.question(here, sae_id), atoms=atoms)
        report: VectorReport = wait_for(here.engine.submit(question))
        if out is not None:
            _write(out, report)
        answer({"sae": question.sae_id, **to_json(report)}, vector_text(report))


def export_vector(
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="The .safetensors file to write.")
    ],
    origins: Origins,
    pairs: Pairs,
    reading: Reading,
    selecting: Selecting,
    place: Place,
    chat: ChatOption = RankingRequest.chat,
    as_json: JsonOption = False,
) -> None:
    """Write a vector at strength 1 to a .safetensors file, in the residual stream's own scale."""
    made = Making(origins, pairs, reading, selecting, chat)
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        question = replace(made.question(here, sae_id), atoms=1)
        report: VectorReport = wait_for(here.engine.submit(question))
        _write(out, report)
        data = {"file": str(out), "norm": report.norm, "d_model": len(report.vector)}
        answer(data, f"A vector of norm {report.norm:.3g} is in {out}.")


def upload_vector(here: Opened, file: Path) -> str:
    """The hash that the vector in a file is kept under.

    Raises:
        SteeringError: the file holds no vector of this model.
    """
    from saif_core.finding.vector_files import read_vector_array
    from saif_core.records.questions import ModelQuestion

    d_model = wait_for(here.engine.submit(ModelQuestion())).d_model
    vector = read_vector_array(file.name, file.read_bytes(), d_model)
    return here.store.tensors.put({VECTOR: vector}, note=f"uploaded as {file.name}")


def _made(here: Opened, origins: Origins, ranking: RankingRequest) -> Arm:
    """What a source makes of the pairs."""
    texts = named_values("--source-parameter", origins.source_parameter)
    spec = ArmSpec(origins.source, origins.source, {SOURCE + k: v for k, v in texts.items()})
    return ArmMaker(here, ranking, (ranking.sae_id,)).steered(spec, origins.source)


def _arm_of(here: Opened, origins: Origins) -> Arm:
    """The arm of a session.

    Raises:
        SaifError: there is no such session or arm.
    """
    session = here.store.sessions.get(origins.session)
    steered = session.request.steered if session.request else ()
    found = [arm for arm in steered if origins.arm in ("", arm.name)]
    if not found:
        raise SteeringError(
            f"Session {session.name!r} has no steered arm {origins.arm or 'at all'!r}; its steered "
            f"arms are: {', '.join(arm.name for arm in steered) or 'none'}."
        )
    return found[0]


def _edit_at(here: Opened, arm: Arm, sae_id: str) -> Edit:
    """The edit of an arm whose vector is asked for: its only one, or that of the SAE's layer.

    Raises:
        SteeringError: there is no such edit, or it adds no vector.
    """
    layer = next((info.layer for info in here.engine.saes() if info.id == sae_id), None)
    found = [e for e in arm.edits if len(arm.edits) == 1 or e.layer == layer]
    if not found:
        layers = ", ".join(str(edit.layer) for edit in arm.edits)
        raise SteeringError(
            f"The arm {arm.name!r} writes after blocks {layers}; choose one of these with --layer."
        )
    if found[0].method != "addition":
        raise SteeringError(
            f"The arm {arm.name!r} is written by {found[0].method!r}, which adds no vector that "
            "is the same everywhere; choose one that is written by 'addition'."
        )
    return found[0]


def _write(out: Path, report: "VectorReport") -> None:
    from saif_core.finding.vector_files import vector_file

    out.write_bytes(vector_file(report.vector))


add_command(app, "show", show_vector)
add_command(app, "export", export_vector)
