"""From command-line options to settings, an engine and its requests, checked on the way."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.options import Wordings
from app.installation import opened_store, started_engine
from app.settings import Settings, load_settings
from saif_core.errors import (
    HookPointError,
    PromptPairError,
    SaeMismatchError,
    SaifError,
    UnknownNameError,
)
from saif_core.records.prompts import Instruction, InstructionPosition, PromptPair
from saif_core.records.ranking import ChosenLatent
from saif_core.records.saes import SaeInfo, layers_of

if TYPE_CHECKING:  # these take seconds to import, and `saif --help` needs neither
    from saif_core.engine.engine import Engine

DEFAULT_CONTENTS = 8
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def settings_for(model: str, sae: str = "", device: str = "") -> Settings:
    """The settings of this installation with what the command line says instead.

    Raises:
        UnknownNameError: the device is none that models run on.
    """
    settings = load_settings()
    device = device or settings.device
    if not _DEVICE.fullmatch(device):
        raise UnknownNameError("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
    model_id = absolute_folder(model or settings.model)
    saes = settings.saes
    if sae and (Path(sae).is_dir() or ":" in sae):
        extra = absolute_folder(sae)
        saes = (extra, *(id for id in saes if absolute_folder(id) != extra))
    return replace(settings, model=model_id, saes=saes, device=device)


def absolute_folder(name: str) -> str:
    """A folder's absolute path, so that a recipe names it everywhere; other names unchanged."""
    return os.path.abspath(name) if name and Path(name).is_dir() else name


@contextlib.contextmanager
def opened_engine(model: str, sae: str, layer: int | None) -> Iterator[tuple["Engine", str]]:
    """An engine and the id of the chosen SAE; both the engine and its store are closed at the end.

    Raises:
        SaifError: --sae and --layer were both given, or there is no such SAE.
    """
    if sae and layer is not None:
        raise HookPointError(
            f"Both --sae {sae} and --layer {layer} were given, and each chooses the SAE; give one."
        )
    settings = settings_for(model, sae)
    with opened_store(settings) as store, started_engine(settings, store) as engine:
        if not sae:
            check_offered(engine)
        yield engine, absolute_folder(sae) or choose_sae(engine.saes(), layer, settings.model)


def check_offered(engine: "Engine") -> None:
    """Check that an SAE can be chosen, where some were named.

    Raises:
        SaeMismatchError: those that were named cannot be used.
    """
    refused = engine.refused_saes()
    if refused and not engine.saes():
        raise SaeMismatchError(f"SAE {refused[0].id!r} cannot be used. {refused[0].unsupported}")


def choose_sae(saes: Sequence[SaeInfo], layer: int | None, model_id: str) -> str:
    """Id of the SAE of a layer, or of the first SAE when no layer is asked for.

    Raises:
        HookPointError: none, or more than one, of the SAEs is for that layer.
        UnknownNameError: there are no SAEs at all.
    """
    if not saes:
        raise UnknownNameError(f"SAE for model {model_id!r}", "default; name one with --sae", [])
    if layer is None:
        return saes[0].id
    found = [info.id for info in saes if info.layer == layer]
    if len(found) > 1:
        raise HookPointError(
            f"Layer {layer} has {len(found)} SAEs, {', '.join(found)}; choose one with --sae."
        )
    if not found:
        layers = ", ".join(str(number) for number in sorted({*layers_of(saes).values()}))
        raise HookPointError(
            f"There is no SAE for layer {layer} of model {model_id!r}; those available are for "
            f"layers {layers}: choose one of these, or give --sae."
        )
    return found[0]


def read_pairs(
    instruction: str,
    pairs: Path | None,
    contents: Path | None,
    *,
    n_contents: int | None,
    wordings: Wordings,
    position: InstructionPosition,
) -> tuple[str, tuple[PromptPair, ...]]:
    """Name and prompt pairs of what was asked for.

    Raises:
        PromptPairError: not exactly one of --instruction and --pairs was given, or a file is bad.
        UnknownNameError: there is no such instruction.
    """
    from saif_core.inputs import prompt_pairs
    from saif_core.inputs.shipped import shipped_contents

    if bool(instruction) == (pairs is not None):
        raise PromptPairError("Give either --instruction or --pairs: prompt pairs come from one.")
    if pairs is not None:
        if contents is not None:
            raise PromptPairError("--pairs has its own contents; leave out --contents.")
        loaded = prompt_pairs.load_pairs(pairs.read_bytes(), filename=pairs.name)
        return pairs.stem, tuple(loaded)
    found = read_instruction(instruction)
    texts: Sequence[str] = shipped_contents()
    if contents is not None:
        texts = prompt_pairs.load_contents(contents.read_bytes(), filename=contents.name)
    made = prompt_pairs.make_pairs(
        found,
        texts,
        position=position,
        n_contents=min(DEFAULT_CONTENTS, len(texts)) if n_contents is None else n_contents,
        wordings=None if wordings == "all" else [found.wordings[0].text],
    )
    return found.name, made


def read_instruction(name: str) -> Instruction:
    """A shipped instruction by its name, or one in a YAML file.

    Raises:
        UnknownNameError: there is no such instruction.
        PromptPairError: the file is none.
    """
    from saif_core.inputs.instruction_files import load_instruction
    from saif_core.inputs.shipped import shipped_instructions

    shipped = shipped_instructions()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UnknownNameError("instruction", name, sorted(shipped))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptPairError(
            f"Instruction file {path.name!r} is not UTF-8 text; save it as UTF-8."
        ) from error
    return load_instruction(text, source=path.name)


def parse_latents(text: str) -> tuple[ChosenLatent, ...]:
    """Latents written as ``INDEX:COEFFICIENT,…``.

    Raises:
        SaifError: the text is not of that form.
    """
    chosen = []
    for part in text.split(","):
        index, _, coefficient = part.strip().partition(":")
        try:
            value = float(coefficient)
        except ValueError:
            value = math.nan
        if not (index.isascii() and index.isdigit() and len(index) < 10 and math.isfinite(value)):
            raise SaifError(
                f"--latents holds {part.strip()!r}, which is not INDEX:COEFFICIENT; write latents "
                "as in 12:3.5,407:1.2."
            )
        chosen.append(ChosenLatent(int(index), value))
    return tuple(chosen)


def parse_parameters(option: str, items: Sequence[str] | None) -> dict[str, Any]:
    """Parameters written as ``NAME=VALUE``; a value that is JSON is read as such, else as text.

    Raises:
        SaifError: an item has no name.
    """
    parameters: dict[str, Any] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise SaifError(f"{option} is {item!r}, which is not NAME=VALUE; write it so.")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def check_finite(option: str, value: float) -> float:
    """The value itself.

    Raises:
        SaifError: it is infinite or not a number.
    """
    if not math.isfinite(value):
        raise SaifError(f"{option} is {value}; give a finite number.")
    return value
