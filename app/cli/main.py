"""The command line ``saif``: every capability without a browser.

Each command prints its answer on standard output, as text or with --json as one JSON object;
progress and warnings go to standard error. Exit status: 0 done, 1 `saif doctor` found problems or
SAIF failed, 2 the request cannot be carried out (one sentence on standard error says why).
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

import typer

from app.cli import corpus as cli_corpus
from app.cli import doctor as cli_doctor
from app.cli import evaluate as cli_evaluate
from app.cli import explain as cli_explain
from app.cli import serve as cli_serve
from app.cli import sessions as cli_sessions
from app.cli import training as cli_training
from app.cli.options import (
    ChatOption,
    ContentsOption,
    InstructionOption,
    JsonOption,
    LayerOption,
    ModelOption,
    NContentsOption,
    PairsOption,
    PositionOption,
    ReadOption,
    ResponseTokensOption,
    SaeOption,
    SelectorOption,
    SelectorParameterOption,
    TopOption,
    WordingsOption,
)
from app.cli.output import answering, say, wait_for
from app.cli.requests import (
    check_finite,
    opened_engine,
    parse_latents,
    parse_parameters,
    read_pairs,
)
from app.cli.texts import generation_data, generation_text, latent_text, ranking_text
from saif_core.errors import SaifError, SteeringError
from saif_core.records.as_json import to_json
from saif_core.records.ranking import ChosenLatent, Ranking, RankingRequest
from saif_core.records.steering import GenerationRequest
from saif_core.records.texts import GenerationResult

app = typer.Typer(
    name="saif",
    help="Find the SAE latents behind an instruction, and steer a language model with them.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(cli_serve.serve)
app.command("fetch")(cli_doctor.fetch)
app.command("doctor")(cli_doctor.doctor)
app.command("index")(cli_corpus.index)
app.command("write-text")(cli_corpus.write_text)
app.command("health")(cli_explain.health)
app.command("decompose")(cli_explain.decompose)


@app.command()
def rank(
    instruction: InstructionOption = "",
    pairs: PairsOption = None,
    contents: ContentsOption = None,
    n_contents: NContentsOption = None,
    wordings: WordingsOption = "all",
    position: PositionOption = "after",
    read: ReadOption = "response",
    response_tokens: ResponseTokensOption = 24,
    selector: SelectorOption = "sensitivity",
    selector_parameter: SelectorParameterOption = None,
    top: TopOption = 15,
    chat: ChatOption = True,
    layer: LayerOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Rank the latents that carry an instruction, best first."""
    parameters = parse_parameters("--selector-parameter", selector_parameter)
    name, prompt_pairs = read_pairs(
        instruction,
        pairs,
        contents,
        n_contents=n_contents,
        wordings=wordings,
        position=position,
    )
    with answering(as_json) as answer, opened_engine(model, sae, layer) as (engine, sae_id):
        request = RankingRequest(
            sae_id=sae_id,
            instruction=name,
            pairs=prompt_pairs,
            chat=chat,
            read=read,
            response_tokens=response_tokens,
            selector=selector,
            selector_parameters=parameters,
            top=top,
        )
        ranking: Ranking = wait_for(engine.rank(request))
        data = to_json(ranking)
        data["latents"] = data["latents"][:top]
        answer(data, ranking_text(ranking))


@app.command()
def latent(
    index: Annotated[
        int, typer.Argument(min=0, metavar="INDEX", help="Index of the latent, from 0 on.")
    ],
    layer: LayerOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what a latent's weights say.

    Tokens that it promotes and suppresses, and the nearest decoder directions.
    """
    with answering(as_json) as answer, opened_engine(model, sae, layer) as (engine, sae_id):
        detail = engine.latent_detail(sae_id, index)
        answer(to_json(detail), latent_text(detail))


@app.command()
def generate(
    prompt: Annotated[
        list[str], typer.Option("--prompt", metavar="TEXT", help="Prompt; repeat it for several.")
    ],
    latents: Annotated[
        str,
        typer.Option(
            "--latents",
            metavar="I:COEF,…",
            show_default=False,
            help="Latents to steer with, each with its coefficient (its activation at strength 1).",
        ),
    ] = "",
    instruction: InstructionOption = "",
    pairs: PairsOption = None,
    contents: ContentsOption = None,
    n_contents: NContentsOption = None,
    wordings: WordingsOption = "all",
    position: PositionOption = "after",
    read: ReadOption = "response",
    response_tokens: ResponseTokensOption = 24,
    selector: SelectorOption = "sensitivity",
    selector_parameter: SelectorParameterOption = None,
    top: TopOption = 15,
    beta: Annotated[
        float,
        typer.Option(
            "--beta", help="Coefficient of a ranked latent = mean + BETA × standard deviation."
        ),
    ] = 0.0,
    strength: Annotated[
        float,
        typer.Option("--strength", help="1 = as strongly as on instructed prompts; 0 = unsteered."),
    ] = 1.0,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Steering method.")
    ] = "addition",
    method_parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--method-parameter",
            metavar="NAME=VALUE",
            show_default=False,
            help="Parameter of the steering method; may be given several times.",
        ),
    ] = None,
    scope: Annotated[
        Literal["generated", "all", "prompt"],
        typer.Option(
            "--scope",
            help="Tokens steered: the last of the prompt and generated ones, all, prompt.",
        ),
    ] = "generated",
    chat: ChatOption = True,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
    ] = 48,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random draws.")] = 0,
    layer: LayerOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Answer prompts unsteered and steered.

    Steers with the latents you name, or with the best ones of an instruction.
    """
    for option, value in (
        ("--beta", beta),
        ("--strength", strength),
        ("--temperature", temperature),
    ):
        check_finite(option, value)
    chosen = parse_latents(latents) if latents else ()
    if bool(chosen) == bool(instruction or pairs):
        raise SteeringError("Give either --latents, or --instruction or --pairs to rank them.")
    if chosen and beta:
        raise SteeringError("--beta shapes ranked latents; with --latents, give the coefficients.")
    selector_parameters = parse_parameters("--selector-parameter", selector_parameter)
    method_parameters = parse_parameters("--method-parameter", method_parameter)
    ranked: dict[str, Any] = {}
    if not chosen:
        name, prompt_pairs = read_pairs(
            instruction,
            pairs,
            contents,
            n_contents=n_contents,
            wordings=wordings,
            position=position,
        )
        ranked = {"instruction": name, "read": read, "selector": selector}
    with answering(as_json) as answer, opened_engine(model, sae, layer) as (engine, sae_id):
        if ranked:
            request = RankingRequest(
                sae_id=sae_id,
                pairs=prompt_pairs,
                chat=chat,
                response_tokens=response_tokens,
                selector_parameters=selector_parameters,
                top=top,
                **ranked,
            )
            chosen = _coefficients(wait_for(engine.rank(request)), beta)
        generation = GenerationRequest(
            sae_id=sae_id,
            prompts=tuple(prompt),
            latents=chosen,
            strength=strength,
            method=method,
            method_parameters=method_parameters,
            scope=scope,
            chat=chat,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            **ranked,
        )
        result: GenerationResult = wait_for(engine.generate(generation))
        answer(generation_data(result), generation_text(result))


app.command("evaluate")(cli_evaluate.evaluate)
app.add_typer(cli_sessions.app, name="session")
app.command("train-sae")(cli_training.train_sae)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``saif`` with the given arguments, or those of the process, and exit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(_run(given or ["--help"]))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="saif", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message())
    except SaifError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _refuse(f"{error.filename!r} cannot be used: {error.strerror or error}.")
    # A command that ends early, as --help does, ends with its exit status instead of an answer.
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    say(" ".join(message.split()))
    return 2


def _coefficients(ranking: Ranking, beta: float) -> tuple[ChosenLatent, ...]:
    from saif_core.finding.ranking import choose_latents

    return choose_latents(ranking, beta=beta)


if __name__ == "__main__":
    main()
