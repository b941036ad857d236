"""What comes with SAIF: instructions, contents with translations, indexes, a finished example."""

import json
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import saif_core
from saif_core.inputs.instruction_files import load_instruction
from saif_core.inputs.prompt_pairs import load_contents, load_references
from saif_core.records.as_json import from_json
from saif_core.records.prompts import Instruction
from saif_core.records.recipes import Recipe
from saif_core.records.sessions import SteeringSession

SHIPPED_INDEXES = Path(saif_core.__file__).parent / "defaults" / "indexes"
SHIPPED_RECIPES = Path(saif_core.__file__).parent / "defaults" / "recipes"
EXAMPLE = Path(saif_core.__file__).parent / "defaults" / "example.json"
_CONTENTS, _LEARNING_CONTENTS = "contents.jsonl", "learning_contents.jsonl"


def shipped_index(sae_id: str) -> Path | None:
    """The file of the corpus index that ships with an SAE; None if none does."""
    file = SHIPPED_INDEXES / f"{sae_id}.index"
    # An SAE may be given as a path, and a path never names a shipped index.
    found = file.is_file() and file.resolve().is_relative_to(SHIPPED_INDEXES)
    return file if found else None


def shipped_instructions() -> dict[str, Instruction]:
    """The instructions that come with SAIF, by name, in alphabetical order."""
    return dict(_shipped_instructions())


def shipped_contents() -> list[str]:
    """The contents that come with SAIF, in their fixed order."""
    return list(_shipped_contents())


def shipped_references(language: str) -> dict[str, str]:
    """Translations of the shipped contents, by content; empty for a language without any.

    Args:
        language: ISO 639-1 code; there are "fr", "de", "es" and "zh".
    """
    return dict(_shipped_references(_CONTENTS).get(language, {}))


@lru_cache(maxsize=1)
def learning_contents() -> tuple[str, ...]:
    """Further contents, for what is trained: none of them is among ``shipped_contents``."""
    file = _default(_LEARNING_CONTENTS)
    return tuple(load_contents(file.read_bytes(), filename=file.name))


def learning_references(language: str) -> dict[str, str]:
    """Translations of ``learning_contents``, as ``shipped_references`` has those of the others."""
    return dict(_shipped_references(_LEARNING_CONTENTS).get(language, {}))


def shipped_recipe(instruction: str, model: str) -> Recipe | None:
    """What steers best for a shipped instruction, as far as it was measured; None if nothing is.

    Args:
        model: id of the model that is to be steered.
    """
    recipe = _shipped_recipes().get(instruction)
    return recipe if recipe is not None and recipe.model == model else None


def recipe_tensors(recipe: Recipe) -> dict[str, bytes]:
    """The learned tensors of a shipped recipe, in safetensors, by the hash that its edits name."""
    names = {edit.tensors for edit in recipe.arm.edits if edit.tensors}
    return {name: (SHIPPED_RECIPES / recipe_file(name)).read_bytes() for name in sorted(names)}


def recipe_file(sha256: str) -> str:
    """Name of the file that tensors are shipped in."""
    return f"{sha256[:16]}.safetensors"


@lru_cache(maxsize=1)
def _shipped_recipes() -> dict[str, Recipe]:
    found = (
        from_json(Recipe, json.loads(file.read_text(encoding="utf-8")))
        for file in sorted(SHIPPED_RECIPES.glob("*.json"))
    )
    return {recipe.instruction: recipe for recipe in found}


@lru_cache(maxsize=1)
def shipped_example() -> SteeringSession | None:
    """The finished example that comes with SAIF, which `saif example` makes; None without one."""
    if not EXAMPLE.is_file():
        return None
    document = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return from_json(SteeringSession, document["session"])


@lru_cache(maxsize=1)
def _shipped_instructions() -> dict[str, Instruction]:
    folder = files("saif_core") / "defaults" / "instructions"
    found = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda f: f.name
    )
    loaded = (load_instruction(f.read_text(encoding="utf-8"), source=f.name) for f in found)
    return {instruction.name: instruction for instruction in loaded}


@lru_cache(maxsize=1)
def _shipped_contents() -> tuple[str, ...]:
    file = _default(_CONTENTS)
    return tuple(load_contents(file.read_bytes(), filename=file.name))


@lru_cache(maxsize=2)
def _shipped_references(name: str) -> dict[str, dict[str, str]]:
    file = _default(name)
    return load_references(file.read_bytes(), filename=file.name)


def _default(name: str) -> Traversable:
    return files("saif_core") / "defaults" / name
