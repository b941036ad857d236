"""Shipped recipes: which can be used here, and what was measured of one, in words."""

from collections.abc import Collection
from dataclasses import replace

from app.presentation.arms import arm_words
from app.presentation.evaluation_files import share_words
from app.presentation.figures import counted, number_words
from saif_core.inputs.shipped import shipped_instructions, shipped_recipe
from saif_core.records.prompts import Instruction
from saif_core.records.recipes import Measured, Recipe
from saif_core.records.steering import Arm

MEASURED = "measured best"
_BESIDE = {"prompted": "prompting", "unsteered": "unsteered", "random": "random control"}


def usable_recipe(
    instruction: Instruction | None, model_id: str, sae_ids: Collection[str]
) -> Recipe | None:
    """The recipe of an instruction, if it is a shipped one and everything it needs is here.

    Args:
        sae_ids: SAEs that are offered.
    """
    if instruction is None or shipped_instructions().get(instruction.name) != instruction:
        return None
    recipe = shipped_recipe(instruction.name, model_id)
    needed = {edit.sae_id for edit in recipe.arm.edits if edit.sae_id} if recipe else set()
    return recipe if needed <= set(sae_ids) else None


def recipe_arms(recipe: Recipe, instruction: Instruction) -> list[Arm]:
    """The recipe's arm, the prompted one, and a random control."""
    best = replace(recipe.arm, name=MEASURED)
    wording = recipe.wording or instruction.wordings[0].text
    return [
        best,
        Arm("prompted", "prompted", instruction=wording),
        replace(best, name="random", kind="random", origin=None),
    ]


def recipe_sentence(recipe: Recipe) -> str:
    """What steers, how often its texts were useful, and those of what it was compared with."""
    beside = [
        f"{words} {_rate(recipe.beside[arm])}"
        for arm, words in _BESIDE.items()
        if arm in recipe.beside
    ]
    figures = ", ".join([f"useful {_rate(recipe.measured)}", *beside])
    n = recipe.measured.rates.n
    return f"{recipe_words(recipe)}. Measured on {counted(n, 'content')}: {figures}."


def recipe_words(recipe: Recipe) -> str:
    """What steers: its source, its latents, layers and strength."""
    arm = recipe.arm
    n_latents = sum(len(edit.latents) for edit in arm.edits)
    source = arm_words(arm.origin.source) if arm.origin else "edits"
    latents = f", {counted(n_latents, 'latent')}" if n_latents else ""
    layers = " and ".join(str(edit.layer) for edit in arm.edits)
    where = "layer" if len(arm.edits) == 1 else "layers"
    said = f"{source}{latents} of {where} {layers} at strength {number_words(arm.strength)}"
    return said[0].upper() + said[1:]


def _rate(measured: Measured) -> str:
    return share_words(measured.rates.primary, measured.rates.primary_ci)
