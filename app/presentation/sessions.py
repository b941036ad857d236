"""What the pages show of texts, judgements and saved sessions, as plain values without widgets."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.presentation.arms import describe_arm, scope_words
from app.presentation.escaping import promotes
from app.presentation.texts import group_texts
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.sessions import SessionSummary, SteeringSession
from saif_core.records.steering import GenerationRequest, SteeringRecipe
from saif_core.records.texts import GenerationResult

MAX_PROMPTS = 32


def split_prompts(text: str) -> tuple[str, ...]:
    """One prompt per line that is not empty."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def recipe_of_request(request: GenerationRequest, ranking: Ranking) -> SteeringRecipe:
    """The recipe of a request that has not run; model and SAE hashes come from the ranking."""
    return SteeringRecipe(
        model=ranking.model,
        model_sha256=ranking.model_sha256,
        sae=ranking.sae,
        sae_sha256=ranking.sae_sha256,
        hook_point=ranking.hook_point,
        **_what_both_say(request),
    )


def request_of_recipe(recipe: SteeringRecipe, prompts: Sequence[str]) -> GenerationRequest:
    """The request that does again what a saved recipe did."""
    return GenerationRequest(sae_id=recipe.sae, prompts=tuple(prompts), **_what_both_say(recipe))


def _what_both_say(asked: GenerationRequest | SteeringRecipe) -> dict[str, Any]:
    """The fields that a request and a recipe have in common."""
    both = {x.name for x in fields(GenerationRequest)} & {x.name for x in fields(SteeringRecipe)}
    return {name: getattr(asked, name) for name in both}


def session_of_work(
    name: str,
    notes: str,
    *,
    request: GenerationRequest,
    instruction: Instruction | None,
    ranking: Ranking | None,
    result: GenerationResult | None,
) -> SteeringSession:
    """A session of what is on the page; a ranking of another SAE or instruction is left out.

    Args:
        request: what is set on the page, used for what has not been generated yet.
        result: the finished texts; their own recipe and prompts are what is kept.
    """
    asked = result.recipe if result else request
    sae = result.recipe.sae if result else request.sae_id
    if ranking and (ranking.sae != sae or ranking.instruction != asked.instruction):
        ranking = None
    if instruction and instruction.name != asked.instruction:
        instruction = None
    recipe = result.recipe if result else None
    if recipe is None and ranking and request.latents:
        recipe = recipe_of_request(request, ranking)
    prompts = request.prompts
    if result:
        prompts = tuple(texts.prompt for texts in group_texts((), result.generations))
    return SteeringSession(
        name=" ".join(name.split()),
        notes=notes.strip(),
        instruction=instruction,
        ranking=ranking,
        recipe=recipe,
        prompts=prompts,
        result=result,
    )


def default_session_name(instruction: str, latents: Sequence[ChosenLatent], strength: float) -> str:
    """A name that says what was done, for a person who types none."""
    if not latents:
        return instruction
    return f"{instruction}: {len(latents)} latents at strength {strength:g}"


def manifest(session: SteeringSession) -> list[tuple[str, str]]:
    """What the session was made with: (what, value), as plain text."""
    rows = [("session", session.id), ("saved", session.updated_at)]
    recipe, ranking = session.recipe, session.ranking
    if recipe is not None:
        method = ", ".join(f"{k} = {v}" for k, v in recipe.method_parameters.items())
        sampling = "greedy" if recipe.temperature == 0 else f"temperature {recipe.temperature:g}"
        rows += [
            ("model", recipe.model),
            ("model sha256", recipe.model_sha256),
            ("SAE", recipe.sae),
            ("SAE sha256", recipe.sae_sha256),
            ("hook point", recipe.hook_point),
            ("chat template sha256", recipe.chat_template_sha256 or "not recorded"),
            ("steering method", recipe.method + (f" ({method})" if method else "")),
            ("strength", f"{recipe.strength:g}"),
            ("scope", scope_words(request_of_recipe(recipe, ()).all_arms[1])),
            ("prompts as", "chat" if recipe.chat else "raw text"),
            (
                "sampling",
                f"{sampling}, seed {recipe.seed}, {recipe.max_new_tokens} tokens at most"
                + (f", {recipe.samples} samples" if recipe.samples > 1 else ""),
            ),
        ]
        rows += [(f"arm {arm.name}", describe_arm(arm)) for arm in recipe.arms]
        if any(recipe.histories):
            n_turns = max(len(history) for history in recipe.histories)
            rows.append(("earlier turns of the chat", str(n_turns)))
        rows += [(name, version) for name, version in sorted(recipe.versions.items())]
    if ranking is not None:
        parameters = ", ".join(f"{k} = {v}" for k, v in ranking.selector_parameters.items())
        rows += [
            ("ranking", ranking.id),
            ("selector", ranking.selector + (f" ({parameters})" if parameters else "")),
            ("read at", ranking.read),
            ("pairs", f"{ranking.n_pairs:,}"),
        ]
        if recipe is None:
            rows += [("model", ranking.model), ("model sha256", ranking.model_sha256)]
            rows += [("SAE", ranking.sae), ("SAE sha256", ranking.sae_sha256)]
    return rows


def chosen_table(latents: Sequence[ChosenLatent], ranking: Ranking | None) -> dict[str, list[Any]]:
    """Chosen latents with what the ranking says of them, if there is one, as columns."""
    chosen: dict[str, list[Any]] = {
        "latent": [latent.index for latent in latents],
        "coefficient": [latent.coefficient for latent in latents],
    }
    if ranking is None:
        return chosen
    known = {score.index: score for score in ranking.latents}
    scores = [known.get(latent.index) for latent in latents]
    return chosen | {
        "score": [score.score if score else None for score in scores],
        "with": [score.rate_positive if score else None for score in scores],
        "without": [score.rate_negative if score else None for score in scores],
        "promotes": [promotes(score.top_tokens) if score else "" for score in scores],
    }


def session_table(summaries: Sequence[SessionSummary]) -> dict[str, list[Any]]:
    """Saved sessions as columns of a table, in the order given."""
    return {
        "name": [summary.name for summary in summaries],
        "instruction": [summary.instruction for summary in summaries],
        "model": [_last_part(summary.model) for summary in summaries],
        "SAE": [_last_part(summary.sae) for summary in summaries],
        "prompts": [summary.n_prompts for summary in summaries],
        "saved": [_moment(summary.updated_at) for summary in summaries],
        "shared": [summary.shared for summary in summaries],
    }


def share_link(page_url: str, share_id: str) -> str:
    """The address that opens a shared session, given the address of any page of the dashboard."""
    parts = urlsplit(page_url)
    # Pages are one level below the dashboard, which may itself be served from a folder.
    base = parts.path.rpartition("/")[0]
    query = urlencode({"session": share_id})
    return urlunsplit((parts.scheme, parts.netloc, f"{base}/", query, ""))


def _last_part(name: str) -> str:
    """A catalog name, or the last folder of a path."""
    return name.rstrip("/").rsplit("/", 1)[-1]


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
