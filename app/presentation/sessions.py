"""What the pages show of texts, judgements and saved sessions, as plain values without widgets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.presentation.arms import describe_arm, read_words, scope_words
from app.presentation.escaping import escape_markdown, promotes
from app.presentation.figures import counted, moment_words, number_words, shown_at
from app.presentation.ranking import verdict
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.sessions import SessionSummary, SteeringSession
from saif_core.records.steering import Arm, GenerationRequest, Sampling, SteeringRecipe
from saif_core.records.texts import GenerationResult

MAX_PROMPTS = 32


def split_prompts(text: str) -> tuple[str, ...]:
    """One prompt per line that is not empty."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def recipe_of_request(
    request: GenerationRequest, ranking: Ranking | None, model: str
) -> SteeringRecipe:
    """The recipe of a request that has not run; the hashes that are known are the ranking's.

    Args:
        model: that would write the texts.
    """
    if ranking is None:
        return SteeringRecipe(request, model, "")
    used = ranking.sae in saes_of(request)
    sae_sha256s = {ranking.sae: ranking.sae_sha256} if used else {}
    return SteeringRecipe(request, ranking.model, ranking.model_sha256, sae_sha256s)


def session_of_work(
    name: str,
    notes: str,
    *,
    request: GenerationRequest,
    instruction: Instruction | None,
    ranking: Ranking | None,
    result: GenerationResult | None,
    model: str,
) -> SteeringSession:
    """A session of what is on the page; a ranking of another SAE or instruction is left out.

    Args:
        request: what is set on the page, used for what has not been generated yet.
        result: the finished texts; their own recipe is what is kept.
        model: that would write the texts.
    """
    asked = result.request if result else request
    saes = saes_of(asked)
    # Texts that take no latents say nothing of the SAE, so that a ranking may stand beside them.
    if ranking and (ranking.instruction != asked.instruction or (saes and ranking.sae not in saes)):
        ranking = None
    if instruction and instruction.name != asked.instruction:
        instruction = None
    return SteeringSession(
        name=" ".join(name.split()),
        notes=notes.strip(),
        instruction=instruction,
        ranking=ranking,
        recipe=result.recipe if result else recipe_of_request(request, ranking, model),
        result=result,
    )


def default_session_name(instruction: str, latents: Sequence[ChosenLatent], strength: float) -> str:
    """A name that says what was done, for a person who types none."""
    if not latents:
        return instruction
    return f"{instruction}: {counted(len(latents), 'latent')} at strength {number_words(strength)}"


def manifest(session: SteeringSession) -> list[tuple[str, str]]:
    """What the session was made with: (what, value), as plain text."""
    rows = [("session", session.id), ("saved", moment_words(session.updated_at))]
    recipe, ranking = session.recipe, session.ranking
    if recipe is not None:
        rows += [*_recipe_rows(recipe), *_request_rows(recipe.request)]
        rows += [(name, version) for name, version in sorted(recipe.versions.items())]
    if ranking is not None:
        rows += [
            ("ranking", ranking.id),
            ("hook point", ranking.hook_point),
            ("selector", ranking.selector + _parameter_words(ranking.selector_parameters)),
            ("read at", read_words(ranking.read)),
            ("pairs", f"{ranking.n_pairs:,}"),
        ]
        if recipe is None:
            rows += [("model", ranking.model), ("model sha256", ranking.model_sha256)]
            rows += [("SAE", ranking.sae), ("SAE sha256", ranking.sae_sha256)]
    return rows


def _recipe_rows(recipe: SteeringRecipe) -> list[tuple[str, str]]:
    rows = [
        ("model", recipe.model),
        ("model sha256", recipe.model_sha256 or "not recorded"),
        ("model ran in", recipe.dtype or "not recorded"),
        ("chat template sha256", recipe.chat_template_sha256 or "not recorded"),
    ]
    for sae_id in saes_of(recipe.request):
        rows += [("SAE", sae_id), ("SAE sha256", recipe.sae_sha256s.get(sae_id, "not recorded"))]
    return rows + [(f"{name} sha256", sha) for name, sha in sorted(recipe.plugin_sha256s.items())]


def _request_rows(request: GenerationRequest) -> list[tuple[str, str]]:
    sampling = request.sampling
    rows = [row for arm in request.arms for row in _arm_rows(arm)]
    rows += [("prompts as", "chat" if sampling.chat else "raw text")]
    rows += [("system prompt", sampling.system)] if sampling.system else []
    rows += [("sampling", sampling_words(sampling))]
    if any(request.histories):
        n_turns = max(len(history) for history in request.histories)
        rows.append(("earlier turns of the chat", str(n_turns)))
    return rows


def _arm_rows(arm: Arm) -> list[tuple[str, str]]:
    rows = [(f"arm {arm.name}", describe_arm(arm))]
    rows += [(f"scope of {arm.name}", scope_words(arm))] if arm.steers else []
    for edit in arm.edits:
        written = edit.method.replace("_", " ") + _parameter_words(edit.method_parameters)
        rows.append((f"steering method of {arm.name}", written))
    if arm.origin is not None:
        made = arm.origin.source.replace("_", " ") + _parameter_words(arm.origin.parameters)
        rows.append((f"source of {arm.name}", made))
    return rows


def sampling_words(sampling: Sampling) -> str:
    """How texts are written, in a few words."""
    temperature = number_words(sampling.temperature)
    words = ["greedy" if sampling.temperature == 0 else f"temperature {temperature}"]
    words += [f"top p {number_words(sampling.top_p)}"] if sampling.top_p < 1 else []
    words += [f"seed {sampling.seed}", f"{sampling.max_new_tokens} tokens at most"]
    words += [f"stop at {', '.join(map(repr, sampling.stop))}"] if sampling.stop else []
    words += [f"{sampling.samples} samples"] if sampling.samples > 1 else []
    return ", ".join(words)


def _parameter_words(parameters: dict[str, Any]) -> str:
    words = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    return f" ({words})" if words else ""


def saes_of(request: GenerationRequest) -> list[str]:
    """The SAEs that the arms of a request take latents from, each once."""
    found = [edit.sae_id for arm in request.arms for edit in arm.edits if edit.sae_id]
    return list(dict.fromkeys(found))


def writing_words(recipe: SteeringRecipe) -> str:
    """What wrote the texts of a recipe and how, as one sentence of plain text."""
    request = recipe.request
    prompts = "as chat messages" if request.sampling.chat else "as raw text"
    saes = saes_of(request)
    through = f", through SAE {' and '.join(saes)}" if saes else ""
    system = (
        f" The system prompt was “{request.sampling.system}”." if request.sampling.system else ""
    )
    return (
        f"Written by {recipe.model}{through}; prompts were given {prompts}; "
        f"{sampling_words(request.sampling)}.{system}"
    )


def pair_of(session: SteeringSession) -> tuple[str, str] | None:
    """A prompt of a session with its instruction and without; None where either is not known."""
    request, instruction = session.request, session.instruction
    if request is None or not request.prompts:
        return None
    prompt = request.prompts[0]
    told = next((arm for arm in request.arms if arm.is_told), None)
    if told is not None:
        return join_instruction(prompt, told.instruction, told.position), prompt
    if instruction is None or not instruction.wordings:
        return None
    return join_instruction(prompt, instruction.wordings[0].text, "after"), prompt


def selective_sentence(ranking: Ranking) -> str:
    """What the best latents do, of what was read, as escaped Markdown."""
    place = escape_markdown(ranking.hook_point)
    told = escape_markdown(verdict(ranking))
    return f"Of {counted(ranking.d_sae, 'latent')} at {place}: {told}"


def made_words(session: SteeringSession) -> str:
    """Who made a session and when, as far as it says."""
    made, saved = moment_words(session.created_at), moment_words(session.updated_at)
    versions = session.recipe.versions if session.recipe else {}
    tool = f"SAIF {versions['saif']}" if "saif" in versions else "SAIF"
    later = f", last saved {saved}" if saved != made else ""
    return f"Made with {tool} on {made}{later}, by whoever sent this link: no name was recorded."


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
        "score": [shown_at(score.score, 3) if score else None for score in scores],
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
