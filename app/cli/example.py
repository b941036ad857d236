"""``saif example``: the finished example of the first page, made anew."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import JsonOption
from app.cli.output import answering, wait_for
from app.cli.requests import Opened, opened, settings_for
from app.installation import take_in_recipe
from app.presentation.recipes import recipe_arms
from app.presentation.session_files import export_session
from saif_core.errors import SaifError
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import Ranking, RankingRequest
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import UNSTEERED, GenerationRequest

if TYPE_CHECKING:
    from saif_core.records.texts import GenerationResult

MODEL = "smollm2-135m-instruct"
INSTRUCTION, TOP = "answer-in-json", 15
N_CONTENTS, N_KEPT = 8, 60
# A fixed id, so that a browser session that opens the example twice opens one session.
EXAMPLE_ID = "00000000-0000-4000-8000-000000000001"
PROMPTS = (
    "The museum opens at ten and closes at five.",
    "The night train to Vienna was fully booked.",
    "Please water the plants twice a week.",
)
NOTES = (
    "The example that comes with SAIF, made by `saif example`. Its prompts are among those that "
    "read best; how often steering works is measured on the Evaluate page, and told in "
    "docs/results/gates.md."
)


def example(
    out: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where to write the session, as JSON."),
    ] = Path("example.json"),
    as_json: JsonOption = False,
) -> None:
    """Make the finished example of the dashboard's first page, and write it to a file.

    It ranks the latents of one shipped instruction on the default model and answers three prompts
    unsteered, by what measured best, prompted and with a random control. `saif replay` says whether
    the texts come out the same.
    """
    with answering(as_json) as answer, opened(settings_for(MODEL)) as here:
        session = make_example(here)
        text = export_session(session, here.store.tensors)
        out.write_text(text + "\n", encoding="utf-8")
        n_texts = len(session.result.generations) if session.result else 0
        data: dict[str, Any] = {"file": str(out), "n_texts": n_texts, "session": session.name}
        answer(data, f"{session.name}: {n_texts} texts, written to {out}")


def make_example(here: Opened) -> SteeringSession:
    """The session of the example, computed."""
    from saif_core.inputs.prompt_pairs import english_wordings, make_pairs
    from saif_core.inputs.shipped import shipped_contents, shipped_instructions, shipped_recipe

    instruction = shipped_instructions()[INSTRUCTION]
    wordings = english_wordings(instruction)
    recipe = shipped_recipe(INSTRUCTION, MODEL)
    if recipe is None:
        raise SaifError(f"No recipe is shipped for {INSTRUCTION!r}; measure one first.")
    take_in_recipe(here.store, recipe)
    sae_id = recipe.arm.edits[0].sae_id
    pairs = make_pairs(instruction, shipped_contents(), n_contents=N_CONTENTS, wordings=wordings)
    asked = RankingRequest(sae_id, INSTRUCTION, pairs, top=TOP)
    ranking: Ranking = wait_for(here.engine.submit(asked))
    request = GenerationRequest(
        PROMPTS,
        (UNSTEERED, *recipe_arms(recipe, instruction)),
        recipe.sampling,
        instruction=INSTRUCTION,
        divergence=True,
    )
    result: GenerationResult = wait_for(here.engine.submit(request))
    return _session(instruction, ranking, result)


def _session(
    instruction: Instruction, ranking: Ranking, result: "GenerationResult"
) -> SteeringSession:
    kept = replace(ranking, latents=ranking.latents[:N_KEPT])
    return SteeringSession(
        name="Example: answer in JSON",
        id=EXAMPLE_ID,
        notes=NOTES,
        instruction=instruction,
        ranking=kept,
        recipe=result.recipe,
        result=result,
    )
