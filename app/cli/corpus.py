"""``saif index`` and ``saif write-text``: latents on a corpus, and a corpus to begin with."""

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import JsonOption, LayerOption, ModelOption, SaeOption
from app.cli.output import ProgressLine, answering, table, wait_for
from app.cli.requests import absolute_folder, check_offered, choose_sae, settings_for
from app.installation import opened_store, quiet_libraries, started_engine
from saif_core.errors import HookPointError, UnknownNameError
from saif_core.records.as_json import to_json

if TYPE_CHECKING:  # imports torch
    from saif_core.records.corpus import LatentIndex

ROWS_AT_ONCE = 64


def index(
    paths: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            metavar="PATH…",
            help="Text, JSONL or Parquet files, or folders of them.",
        ),
    ],
    name: Annotated[
        str,
        typer.Option("--name", show_default="the files' names", help="What to call the index."),
    ] = "",
    layer: LayerOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            file_okay=False,
            show_default=False,
            help="Folder to write the finished indexes to, one file per SAE, for other databases.",
        ),
    ] = None,
    model: ModelOption = "",
    sae: Annotated[
        str,
        typer.Option(
            "--sae",
            metavar="ID",
            show_default="all SAEs offered for the model",
            help="SAE to read the text through.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Read a corpus and describe every latent.

    Where it was stopped before, it goes on; a corpus that was read already is not read again.
    """
    if sae and layer is not None:
        raise HookPointError(
            f"Both --sae {sae} and --layer {layer} were given, and each chooses the SAE; give one."
        )
    settings = settings_for(model, sae)
    with (
        answering(as_json) as answer,
        opened_store(settings) as store,
        started_engine(settings, store) as engine,
    ):
        from saif_core.records.corpus import IndexRequest

        offered = engine.saes()
        chosen = [absolute_folder(sae)] if sae else [info.id for info in offered]
        if layer is not None:
            chosen = [choose_sae(offered, layer, settings.model)]
        if not sae:
            check_offered(engine)
        if not chosen:
            raise UnknownNameError(
                f"SAE for model {settings.model!r}", "default; name one with --sae", []
            )
        title = name or ", ".join(path.name for path in paths)
        request = IndexRequest(title, tuple(map(str, paths)), tuple(chosen))
        done: list[LatentIndex] = wait_for(engine.index(request))
        files = {}
        if export is not None:
            export.mkdir(parents=True, exist_ok=True)
            for made in done:
                files[made.id] = export / f"{Path(made.sae_id).name}.index"
                files[made.id].write_bytes(store.profiles.export(made.id))
        data = [to_json(made) | {"file": str(files.get(made.id, ""))} for made in done]
        rows = [
            (made.sae_id, made.n_contexts, made.n_tokens, made.n_nonzero / max(made.n_tokens, 1))
            for made in done
        ]
        answer({"indexes": data}, table(("SAE", "contexts", "tokens", "L0"), rows))


def write_text(
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="JSONL file to write, for `saif index`.")
    ],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of each answer.")] = 56,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0)] = 0.7,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
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
    with answering(as_json) as answer:
        from saif_core.catalog import Catalog
        from saif_core.inputs.shipped import shipped_contents, shipped_instructions
        from saif_core.writing.decoder import RowRequest, decode

        quiet_libraries()
        loaded = Catalog(settings.home).load_model(
            settings.model, device=settings.device, dtype=settings.dtype
        )
        draw = random.Random(seed)
        contents = shipped_contents()
        prompts = list(contents)
        for instruction in shipped_instructions().values():
            for content in contents:
                said = draw.choice(instruction.wordings).text
                after = draw.random() < 0.8
                prompts.append(f"{content} {said}" if after else f"{said} {content}")
        draw.shuffle(prompts)
        prompts = prompts[: limit or None]
        progress = ProgressLine()
        with out.open("w", encoding="utf-8") as file:

            def write(document: dict[str, Any]) -> None:
                file.write(json.dumps(document, ensure_ascii=False) + "\n")

            for start in range(0, len(prompts), ROWS_AT_ONCE):
                batch = prompts[start : start + ROWS_AT_ONCE]
                rows = decode(
                    loaded,
                    [
                        RowRequest(
                            tuple(loaded.encode_prompt(prompt, chat=True)),
                            tokens,
                            temperature,
                            seed,
                            sample=start + number,
                        )
                        for number, prompt in enumerate(batch)
                    ],
                )
                for prompt, row in zip(batch, rows, strict=True):
                    turns = [("user", prompt), ("assistant", loaded.decode(row.token_ids))]
                    write({"messages": [{"role": r, "content": text} for r, text in turns]})
                progress("writing", start + len(batch), len(prompts))
            for content in contents:
                write({"text": content})
        progress.close()
        data = {"file": str(out), "conversations": len(prompts), "texts": len(contents)}
        answer(data, f"{len(prompts)} conversations and {len(contents)} texts are in {out}.")
