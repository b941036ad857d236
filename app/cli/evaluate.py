"""``saif evaluate``: how well steering works, against controls, with intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from app.cli.options import (
    ContentsOption,
    InstructionOption,
    JsonOption,
    ModelOption,
    PositionOption,
    ReadOption,
    SaeOption,
    SelectorOption,
)
from app.cli.output import answering, table, wait_for
from app.cli.requests import (
    absolute_folder,
    check_finite,
    choose_sae,
    read_instruction,
    settings_for,
)
from app.installation import opened_store, started_engine
from saif_core.errors import HookPointError, PromptPairError, SaifError, UnknownNameError
from saif_core.records.evaluation import (
    DEFAULT_ARMS,
    EVALUATION_ARMS,
    Evaluation,
    EvaluationRequest,
)

if TYPE_CHECKING:  # the engine's modules take seconds to import
    from saif_core.engine.engine import Engine

T = TypeVar("T")

MOST_LATENTS = 1000


def evaluate(
    instruction: InstructionOption,
    arms: Annotated[
        str,
        typer.Option("--arms", metavar="ARM,…", help=f"Any of {', '.join(EVALUATION_ARMS)}."),
    ] = ",".join(DEFAULT_ARMS),
    strengths: Annotated[
        str,
        typer.Option(
            "--strengths",
            metavar="S,…",
            help="Steering strengths; 1 = as strongly as on instructed prompts.",
        ),
    ] = "0.5,1,1.5,2",
    top: Annotated[
        str, typer.Option("--top", metavar="K,…", help="How many latents to steer with.")
    ] = "15",
    denoised_top: Annotated[
        str,
        typer.Option(
            "--denoised-top", metavar="K,…", help="How many latents the denoised arm takes."
        ),
    ] = "60",
    beta: Annotated[
        str,
        typer.Option(
            "--beta",
            metavar="B,…",
            help="Coefficient of a latent = mean + B × standard deviation.",
        ),
    ] = "0",
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            metavar="L,…",
            show_default="the layer of --sae, or of the first SAE offered",
            help="Take the SAEs of these layers (0-based); not with --sae.",
        ),
    ] = "",
    together: Annotated[
        bool, typer.Option("--together", help="Also steer at all of --layers at once.")
    ] = False,
    n: Annotated[
        int, typer.Option("--n", min=2, help="How many contents to test on, from the last back.")
    ] = 100,
    rank_contents: Annotated[
        int,
        typer.Option(
            "--rank-contents", min=1, help="How many contents to rank on, from the first on."
        ),
    ] = 32,
    contents: ContentsOption = None,
    read: ReadOption = "response",
    position: PositionOption = "after",
    selector: SelectorOption = "sensitivity",
    scope: Annotated[
        Literal["generated", "last-token", "prompt", "all"],
        typer.Option(
            "--scope",
            help="Tokens steered: the last of the prompt and generated ones, that last one alone, "
            "prompt, all.",
        ),
    ] = "generated",
    decay: Annotated[
        float,
        typer.Option("--decay", min=0.0, help="Strength at step t is divided by 1 + DECAY × t."),
    ] = 0.0,
    keep_norm: Annotated[
        bool,
        typer.Option("--keep-norm", help="Rescale the residual stream to the norm it had."),
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
    ] = 40,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 is greedy; small models then loop.")
    ] = 0.5,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of sampling and of random latents.")
    ] = 0,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            dir_okay=False,
            show_default=False,
            help="Write the evaluation with its texts to this HTML file too.",
        ),
    ] = None,
) -> None:
    """Measure how well an instruction is followed: steered, prompted, and by controls.

    Settings are chosen on one half of the test contents and reported on the other.
    """
    if html is not None and not html.parent.is_dir():
        raise SaifError(f"--html is {str(html)!r}, but there is no such folder; make it first.")
    wanted = _layers(layers, sae, together)
    found = read_instruction(instruction)
    rank_texts, test_texts = _split_contents(contents, rank_contents, n)
    wordings = [wording.text for wording in found.wordings]
    request = EvaluationRequest(
        instruction=found,
        sae_ids=(),
        rank_contents=rank_texts,
        rank_wordings=tuple(wordings[::2]),
        test_contents=test_texts,
        test_wordings=tuple(wordings[1::2] or wordings),
        arms=_listed("--arms", arms, _arm),
        strengths=_listed("--strengths", strengths, _number),
        tops=_listed("--top", top, _n_latents),
        denoised_tops=_listed("--denoised-top", denoised_top, _n_latents),
        betas=_listed("--beta", beta, _number),
        together=together,
        position=position,
        read=read,
        selector=selector,
        scope=scope,
        decay=check_finite("--decay", decay),
        keep_norm=keep_norm,
        max_new_tokens=max_new_tokens,
        temperature=check_finite("--temperature", temperature),
        seed=seed,
    )
    settings = settings_for(model, sae)
    with (
        answering(as_json) as answer,
        opened_store(settings) as store,
        started_engine(settings, store) as engine,
    ):
        from app.presentation.evaluation_files import evaluation_data
        from app.presentation.evaluation_page import evaluation_html

        sae_ids = (absolute_folder(sae),) if sae else _saes_of(engine, wanted, settings.model)
        evaluation: Evaluation = wait_for(engine.evaluate(replace(request, sae_ids=sae_ids)))
        if html is not None:
            cells = [best.cell for best in evaluation.best]
            texts = {cell: store.evaluations.texts(evaluation.id, cell) for cell in cells}
            html.write_bytes(evaluation_html(evaluation, texts))
        answer(evaluation_data(evaluation), _text(evaluation))


def _layers(text: str, sae: str, together: bool) -> tuple[int | None, ...]:
    """Layers whose SAEs are taken; None stands for that of the first SAE offered."""
    if sae and text:
        raise HookPointError(
            f"Both --sae {sae} and --layers {text} were given, and each chooses SAEs; give one."
        )
    layers = _listed("--layers", text, _layer) if text else (None,)
    if together and len(layers) < 2:
        raise HookPointError(
            "--together steers at several layers at once, but there is only one; name several with "
            "--layers."
        )
    return layers


def _saes_of(engine: "Engine", layers: Sequence[int | None], model_id: str) -> tuple[str, ...]:
    offered = engine.saes()
    return tuple(choose_sae(offered, layer, model_id) for layer in layers)


def _split_contents(
    file: Path | None, n_rank: int, n_test: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first contents, to rank on, and the last ones, to test on."""
    from saif_core.inputs.prompt_pairs import load_contents
    from saif_core.inputs.shipped import shipped_contents

    texts = (
        shipped_contents() if file is None else load_contents(file.read_bytes(), filename=file.name)
    )
    if n_rank + n_test > len(texts):
        raise PromptPairError(
            f"{n_rank} contents were to rank latents and {n_test} others to test them, but there "
            f"are {len(texts)}; lower --n or --rank-contents, or give more with --contents."
        )
    return tuple(texts[:n_rank]), tuple(texts[-n_test:])


def _listed(option: str, text: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    """The values of a list, each once.

    Raises:
        SaifError: one of them cannot be used.
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        return tuple(dict.fromkeys(parse(part) for part in parts))
    except ValueError as error:
        raise SaifError(f"{option} is {text!r}, but {error}; separate values by commas.") from error


def _arm(text: str) -> str:
    if text not in EVALUATION_ARMS:
        raise UnknownNameError("arm", text, list(EVALUATION_ARMS))
    return text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _n_latents(text: str) -> int:
    if not (_is_whole(text) and 1 <= int(text) <= MOST_LATENTS):
        raise ValueError(f"{text!r} is not a whole number from 1 to {MOST_LATENTS}")
    return int(text)


def _layer(text: str) -> int:
    if not _is_whole(text):
        raise ValueError(f"{text!r} is not the number of a layer")
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _text(evaluation: Evaluation) -> str:
    from app.presentation.evaluation_files import evaluation_sentence, setting_row, share_words

    best = {best.cell for best in evaluation.best}
    rows = [
        (
            "*" if number in best else "",
            *setting_row(cell.setting),
            str(cell.rates.n),
            share_words(cell.rates.strict, cell.rates.strict_ci),
            share_words(cell.rates.loose, cell.rates.loose_ci),
            share_words(cell.rates.disorder, cell.rates.disorder_ci),
        )
        for number, cell in enumerate(evaluation.cells)
    ]
    headers = ("", "arm", "layer", "latents", "beta", "strength", "n", "strict", "loose", "broken")
    return (
        f"{evaluation.request.instruction.name}: {len(evaluation.request.test_contents)} test "
        f"contents, {evaluation.model}, {evaluation.seconds:.0f} s\n\n"
        f"{table(headers, rows)}\n\n"
        "* chosen on every second content; what follows is measured on the others.\n"
        f"{evaluation_sentence(evaluation)}"
    )
