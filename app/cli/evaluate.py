"""``saif evaluate``: how well steering works, against controls, with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.evaluate_options import Arms, Tested
from app.cli.evaluations import evaluation_page
from app.cli.groups import Places, Reading, Selecting
from app.cli.options import JsonOption, Without, checked
from app.cli.output import answering, wait_for
from app.cli.requests import (
    check_places,
    chosen_saes,
    opened,
    read_instruction,
    selector_values,
    settings_for,
)
from app.cli.texts import evaluation_text
from app.cli.values import named_values, numbers, whole_numbers
from saif_core.errors import SaifError
from saif_core.records.evaluation import Evaluation, EvaluationRequest
from saif_core.records.steering import Sampling, Schedule


def evaluate(
    tested: Tested,
    arms: Arms,
    reading: Reading,
    selecting: Selecting,
    places: Places,
    schedule: Schedule = EvaluationRequest.schedule,
    # An evaluation writes one text for each content.
    sampling: Annotated[Sampling, Without(("samples",))] = EvaluationRequest.sampling,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            dir_okay=False,
            show_default=False,
            help="Write the evaluation with its texts to this HTML file too.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well an instruction is followed: steered, prompted, and by controls.

    Settings are chosen on one half of the test contents and reported on the other. What is
    compared is named by --source, --control and --baseline, which replace --arms.
    """
    from saif_core.evaluating.splitting import split_wordings

    if html is not None and not html.parent.is_dir():
        raise SaifError(f"--html is {str(html)!r}, but there is no such folder; make it first.")
    check_places(places)
    arms.check(places)
    named_values("--selector-parameter", selecting.selector_parameter)
    instruction = read_instruction(tested.instruction)
    rank_contents, test_contents = tested.split()
    rank_wordings, test_wordings = split_wordings([w.text for w in instruction.wordings])
    with answering(as_json) as answer, opened(settings_for(places.model, places.sae or ())) as here:
        from app.presentation.evaluation_files import evaluation_data

        request = EvaluationRequest(
            instruction=instruction,
            sae_ids=chosen_saes(here, places),
            rank_contents=rank_contents,
            rank_wordings=rank_wordings,
            test_contents=test_contents,
            test_wordings=test_wordings,
            layers=whole_numbers("--further-layers", places.further_layers),
            baselines=arms.baselines,
            candidates=arms.candidates(here),
            controls=arms.controls,
            controls_of=arms.controls_of,
            strengths=numbers("--strengths", arms.strengths),
            together=arms.together,
            position=tested.position,
            read=reading.read,
            response_tokens=reading.response_tokens,
            selector=selecting.selector,
            selector_parameters=selector_values(selecting),
            schedule=schedule,
            keep_norm=arms.keep_norm,
            sampling=sampling,
        )
        evaluation: Evaluation = wait_for(here.engine.submit(checked(request)))
        if html is not None:
            html.write_bytes(evaluation_page(here.store, evaluation))
        answer(evaluation_data(evaluation), evaluation_text(evaluation))
