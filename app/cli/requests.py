"""From command-line options to settings, an engine and its requests, checked on the way."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.cli.groups import Pairs, Place, Places, Reading, Selecting
from app.cli.values import named_values, typed_values, whole_numbers
from app.installation import opened_store, started_engine
from app.settings import Settings, load_settings
from saif_core.errors import (
    HookPointError,
    PromptPairError,
    SaeMismatchError,
    UnknownNameError,
)
from saif_core.records.prompts import Instruction, PromptPair
from saif_core.records.ranking import RankingRequest
from saif_core.records.saes import SaeInfo, layers_of

if TYPE_CHECKING:  # these take seconds to import, and `saif --help` needs neither
    from saif_core.engine.engine import Engine
    from storage import Store

DEFAULT_CONTENTS = 8
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


class Opened(NamedTuple):
    """Store and engine of a command, while it runs."""

    settings: Settings
    store: "Store"
    engine: "Engine"


class GivenPairs(NamedTuple):
    """What prompt pairs are of, and the pairs.

    Attributes:
        record: the instruction whole; None where pairs came from a file.
    """

    instruction: str
    pairs: tuple[PromptPair, ...]
    record: Instruction | None

    @property
    def wording(self) -> str:
        """The instruction in words, as a prompt holds it; "" if the pairs do not tell."""
        return next((pair.instruction for pair in self.pairs if pair.instruction), "")


NO_PAIRS = GivenPairs("", (), None)


def settings_for(model: str, saes: str | Sequence[str] = (), device: str = "") -> Settings:
    """The settings of this installation with what the command line says instead.

    Raises:
        UnknownNameError: the device is none that models run on.
    """
    settings = load_settings()
    device = device or settings.device
    if not _DEVICE.fullmatch(device):
        raise UnknownNameError("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
    named = [sae for sae in ([saes] if isinstance(saes, str) else saes) if sae]
    extra = tuple(absolute_folder(sae) for sae in named if Path(sae).is_dir() or ":" in sae)
    kept = tuple(sae for sae in settings.saes if absolute_folder(sae) not in extra)
    return replace(
        settings,
        model=absolute_folder(model or settings.model),
        saes=(*extra, *kept),
        device=device,
    )


def absolute_folder(name: str) -> str:
    """A folder's absolute path, so that a recipe names it everywhere; other names unchanged."""
    return os.path.abspath(name) if name and Path(name).is_dir() else name


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Opened]:
    """Store and engine, closed at the end."""
    with opened_store(settings) as store, started_engine(settings, store) as engine:
        yield Opened(settings, store, engine)


@contextlib.contextmanager
def opened_at(place: Place) -> Iterator[tuple[Opened, str]]:
    """Store and engine, and the id of the chosen SAE.

    Raises:
        SaifError: --sae and --layer were both given, or there is no such SAE.
    """
    if place.sae and place.layer is not None:
        raise both_given(place.sae, f"--layer {place.layer}")
    with opened(settings_for(place.model, place.sae)) as here:
        yield here, absolute_folder(place.sae) or offered_sae(here, place.layer)


def both_given(sae: str, other: str) -> HookPointError:
    """The refusal of an SAE that was chosen twice."""
    return HookPointError(
        f"Both --sae {sae} and {other} were given, and each chooses the SAE; give one."
    )


def offered_sae(here: Opened, layer: int | None) -> str:
    """Id of the SAE that is offered for a layer, or of the first one.

    Raises:
        SaifError: there is none, or those that were named cannot be used.
    """
    check_offered(here.engine)
    return choose_sae(here.engine.saes(), layer, here.settings.model)


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


def check_places(places: Places) -> None:
    """Check what can be told before anything is loaded.

    Raises:
        SaifError: SAEs were chosen twice, or a list of layers is none.
    """
    if places.sae and places.layers:
        raise both_given(places.sae[0], f"--layers {places.layers}")
    whole_numbers("--layers", places.layers)
    whole_numbers("--further-layers", places.further_layers)


def chosen_saes(here: Opened, places: Places) -> tuple[str, ...]:
    """The SAEs that were chosen; none where only further layers are written after.

    Raises:
        SaifError: there is no such SAE.
    """
    if places.sae:
        return tuple(absolute_folder(sae) for sae in places.sae)
    layers = whole_numbers("--layers", places.layers)
    if layers:
        return tuple(offered_sae(here, layer) for layer in layers)
    return () if places.further_layers else (offered_sae(here, None),)


def read_pairs(pairs: Pairs) -> GivenPairs:
    """Name and prompt pairs of what was asked for.

    Raises:
        PromptPairError: not exactly one of --instruction and --pairs was given, or a file is bad.
        UnknownNameError: there is no such instruction.
    """
    from saif_core.inputs import prompt_pairs

    file = pairs.pairs
    if bool(pairs.instruction) == (file is not None):
        raise PromptPairError("Give either --instruction or --pairs: prompt pairs come from one.")
    if file is not None:
        if pairs.contents is not None:
            raise PromptPairError("--pairs has its own contents; leave out --contents.")
        loaded = prompt_pairs.load_pairs(file.read_bytes(), filename=file.name)
        return GivenPairs(file.stem, tuple(loaded), None)
    found = read_instruction(pairs.instruction)
    texts = read_contents(pairs.contents)
    n_contents = min(DEFAULT_CONTENTS, len(texts)) if pairs.n_contents is None else pairs.n_contents
    made = prompt_pairs.make_pairs(
        found,
        texts,
        position=pairs.position,
        n_contents=n_contents,
        wordings=None if pairs.wordings == "all" else [found.wordings[0].text],
    )
    return GivenPairs(found.name, made, found)


def read_contents(file: Path | None) -> list[str]:
    """The contents of a file, else the shipped ones.

    Raises:
        PromptPairError: the file is bad.
    """
    from saif_core.inputs.prompt_pairs import load_contents
    from saif_core.inputs.shipped import shipped_contents

    if file is None:
        return shipped_contents()
    return load_contents(file.read_bytes(), filename=file.name)


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


def ranking_request(
    given: GivenPairs, sae_id: str, reading: Reading, selecting: Selecting, *, chat: bool, top: int
) -> RankingRequest:
    """What pairs are ranked by.

    Raises:
        SaifError: the selector does not exist, or does not take the parameters.
    """
    return RankingRequest(
        sae_id=sae_id,
        instruction=given.instruction,
        pairs=given.pairs,
        chat=chat,
        read=reading.read,
        response_tokens=reading.response_tokens,
        selector=selecting.selector,
        selector_parameters=selector_values(selecting),
        top=top,
        judged_by=given.record,
    )


def selector_values(selecting: Selecting) -> dict[str, Any]:
    """The parameters of the selector that were given, in their types.

    Raises:
        SaifError: the selector does not exist, or does not take them.
    """
    from saif_core.registry import SELECTORS

    texts = named_values("--selector-parameter", selecting.selector_parameter)
    return typed_values(SELECTORS.get(selecting.selector), SELECTORS.kind, texts)
