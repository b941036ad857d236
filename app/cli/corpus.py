"""``saif index`` and ``saif write-text``: latents on a corpus, and a corpus to begin with."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.groups import ModelOption, Place, SaeOption
from app.cli.options import JsonOption, Of
from app.cli.output import ProgressLine, answering, table, wait_for
from app.cli.requests import (
    Opened,
    absolute_folder,
    both_given,
    check_offered,
    offered_sae,
    opened,
    settings_for,
)
from app.installation import started_engine
from app.presentation.figures import left_out_words
from saif_core.errors import UnknownNameError
from saif_core.records.as_json import to_json
from saif_core.records.steering import GenerationRequest, Sampling

if TYPE_CHECKING:  # these import numpy or torch
    from saif_core.engine.engine import Engine
    from saif_core.records.corpus import LatentIndex
    from saif_core.records.questions import IndexReport

ROWS_AT_ONCE = 64
AFTER_SHARE = 0.8  # of the prompts, the instruction stands after the content


def index(
    paths: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            metavar="PATH…",
            help="Text, JSONL or Parquet files, or folders of them.",
        ),
    ],
    place: Place,
    name: Annotated[
        str,
        typer.Option("--name", show_default="the files' names", help="What to call the index."),
    ] = "",
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            file_okay=False,
            show_default=False,
            help="Folder to write the finished indexes to, one file per SAE, for other databases.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a corpus and describe every latent.

    Through all SAEs offered for the model, unless one is named. Where it was stopped before, it
    goes on; a corpus that was read already is not read again.
    """
    if place.sae and place.layer is not None:
        raise both_given(place.sae, f"--layer {place.layer}")
    with answering(as_json) as answer, opened(settings_for(place.model, place.sae)) as here:
        from saif_core.records.corpus import IndexRequest

        title = name or ", ".join(path.name for path in paths)
        request = IndexRequest(title, tuple(map(str, paths)), _all_saes(here, place))
        report: IndexReport = wait_for(here.engine.submit(request))
        files = _export(here, report.indexes, export) if export is not None else {}
        data = [to_json(made) | {"file": files.get(made.id, "")} for made in report.indexes]
        rows = [
            (made.sae_id, made.n_contexts, made.n_tokens, made.n_nonzero / max(made.n_tokens, 1))
            for made in report.indexes
        ]
        told = table(("SAE", "contexts", "tokens", "L0"), rows)
        if report.n_left_out:
            told += f"\n{left_out_words(report.n_left_out)}"
        answer({"indexes": data, "n_left_out": report.n_left_out}, told)


def _all_saes(here: Opened, place: Place) -> tuple[str, ...]:
    """The SAE that was named, or all that are offered."""
    if place.sae:
        return (absolute_folder(place.sae),)
    if place.layer is not None:
        return (offered_sae(here, place.layer),)
    check_offered(here.engine)
    offered = tuple(info.id for info in here.engine.saes())
    if not offered:
        model = here.settings.model
        raise UnknownNameError(f"SAE for model {model!r}", "default; name one with --sae", [])
    return offered


def _export(here: Opened, indexes: "Sequence[LatentIndex]", folder: Path) -> dict[str, str]:
    """Files of finished indexes, by id."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {made.id: folder / f"{Path(made.sae_id).name}.index" for made in indexes}
    for index_id, file in files.items():
        file.write_bytes(here.store.profiles.export(index_id))
    return {index_id: str(file) for index_id, file in files.items()}


def write_text(
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="JSONL file to write, for `saif index`.")
    ],
    tokens: Annotated[
        int, Of(Sampling, "max_new_tokens", help="tokens of each answer at most")
    ] = 56,
    temperature: Annotated[float, Of(Sampling)] = 0.7,
    seed: Annotated[int, Of(Sampling, help="of the order and of the draws")] = 0,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Conversations to write; 0 writes all.")
    ] = 0,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Have the model write a corpus of its own.

    It answers every shipped content, alone and under each shipped instruction in one of its
    wordings. The contents follow as plain texts.
    """
    settings = settings_for(model, sae)
    # Without the store, whose list of jobs has no use for thousands of texts.
    with answering(as_json) as answer, started_engine(settings) as engine:
        from saif_core.inputs.shipped import shipped_contents

        contents = shipped_contents()
        prompts = _own_prompts(contents, seed)[: limit or None]
        sampling = Sampling(max_new_tokens=tokens, temperature=temperature)
        with out.open("w", encoding="utf-8") as file:

            def write(document: dict[str, Any]) -> None:
                file.write(json.dumps(document, ensure_ascii=False) + "\n")

            for prompt, text in _answers(engine, prompts, sampling, seed):
                turns = [("user", prompt), ("assistant", text)]
                write({"messages": [{"role": role, "content": said} for role, said in turns]})
            for content in contents:
                write({"text": content})
        data = {"file": str(out), "conversations": len(prompts), "texts": len(contents)}
        answer(data, f"{len(prompts)} conversations and {len(contents)} texts are in {out}.")


def _own_prompts(contents: Sequence[str], seed: int) -> list[str]:
    """Contents alone and under every shipped instruction, shuffled."""
    from saif_core.inputs.prompt_pairs import join_instruction
    from saif_core.inputs.shipped import shipped_instructions

    draw = random.Random(seed)
    prompts = list(contents)
    for instruction in shipped_instructions().values():
        for content in contents:
            said = draw.choice(instruction.wordings).text
            after = draw.random() < AFTER_SHARE
            prompts.append(join_instruction(content, said, "after" if after else "before"))
    draw.shuffle(prompts)
    return prompts


def _answers(
    engine: "Engine", prompts: Sequence[str], sampling: Sampling, seed: int
) -> Iterator[tuple[str, str]]:
    """Prompts with what the model writes to them; every one has random draws of its own."""
    progress = ProgressLine()
    try:
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            batch = prompts[start : start + ROWS_AT_ONCE]
            # The engine writes the texts of all these requests together.
            jobs = [
                engine.submit(
                    GenerationRequest(
                        (prompt,), sampling=replace(sampling, seed=seed + start + number)
                    )
                )
                for number, prompt in enumerate(batch)
            ]
            for prompt, job in zip(batch, jobs, strict=True):
                yield prompt, job.result().generations[0].text
            progress("writing", start + len(batch), len(prompts))
    finally:
        progress.close()
