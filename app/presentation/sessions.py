"""What the pages show of texts, judgements and saved sessions, as plain values without widgets."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.presentation.arms import describe_arm, scope_words
from saif_core.errors import SaifError
from saif_core.records.texts import (
    ChosenLatent,
    Generation,
    GenerationRequest,
    GenerationResult,
    Instruction,
    Judgement,
    PromptPair,
    Ranking,
    SessionSummary,
    SteeringRecipe,
    SteeringSession,
    TokenEvent,
)

MAX_PROMPTS = 32
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^])")
_VISIBLE = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True)
class ArmText:
    """One arm's text, finished or still growing.

    Attributes:
        generation: the finished text's record; None while it is being written.
    """

    text: str = ""
    n_tokens: int = 0
    generation: Generation | None = None


@dataclass(frozen=True)
class PromptTexts:
    """What one prompt was answered with.

    Attributes:
        arms: the samples of each arm by its name, the unsteered arm first.
    """

    prompt: str
    arms: dict[str, tuple[ArmText, ...]]


@dataclass(frozen=True)
class GradeCount:
    """How many texts of an arm follow the instruction; those not judged are counted apart."""

    strict: int
    loose: int
    judged: int
    not_judged: int


def escape_markdown(text: str) -> str:
    """A typed or generated text as one line of Markdown that shows exactly that text."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def visible(token: str) -> str:
    """A token with its white space made visible, for monospace."""
    return "".join(_VISIBLE.get(sign, sign) for sign in token)


def promotes(tokens: Sequence[str], n: int = 3) -> str:
    """The first tokens a latent promotes, as ``a · b · c``; "" when none is known."""
    return " · ".join(token.strip() or visible(token) for token in tokens[:n])


def split_prompts(text: str) -> tuple[str, ...]:
    """One prompt per line that is not empty."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def group_events(
    prompts: Sequence[str], arms: Sequence[str], samples: int, events: Iterable[TokenEvent]
) -> list[PromptTexts]:
    """The texts so far, one entry per prompt, from a job's token events.

    Args:
        arms: names of all arms, in the order of their columns.
        samples: texts per prompt and arm.
    """
    latest: dict[tuple[int, str, int], ArmText] = {}
    for event in events:
        at = event.prompt_index, event.arm, event.sample
        latest[at] = ArmText(event.text, event.n_tokens)
    return [
        PromptTexts(
            prompt,
            {
                arm: tuple(latest.get((index, arm, sample), ArmText()) for sample in range(samples))
                for arm in arms
            },
        )
        for index, prompt in enumerate(prompts)
    ]


def group_texts(arms: Sequence[str], generations: Iterable[Generation]) -> list[PromptTexts]:
    """The finished texts, one entry per prompt, in the order of the prompts.

    Args:
        arms: names of all arms, in the order of their columns; one without a text has an empty one.
    """
    found: dict[int, dict[str, list[Generation]]] = {}
    for generation in generations:
        of_prompt = found.setdefault(generation.prompt_index, {})
        of_prompt.setdefault(generation.arm, []).append(generation)
    return [
        PromptTexts(
            next(iter(by_arm.values()))[0].prompt,
            {arm: _finished(by_arm.get(arm, [])) for arm in dict.fromkeys((*arms, *by_arm))},
        )
        for _, by_arm in sorted(found.items())
    ]


def text_facts(text: ArmText) -> str:
    """Tokens, how the text ended and its perplexity, as one line."""
    facts = [f"{text.n_tokens} token{'' if text.n_tokens == 1 else 's'}"]
    generation = text.generation
    if generation is not None:
        ended = generation.stopped == "end"
        facts.append("ended by itself" if ended else "cut at the token limit")
        if generation.perplexity is not None:
            facts.append(f"perplexity {generation.perplexity:,.1f} under the unsteered model")
    return " · ".join(facts)


def judge_text(instruction: Instruction, generation: Generation) -> Judgement:
    """Whether a text follows the instruction; grade None with the reason if that is unknown."""
    from saif_core.registry import EVALUATORS

    wording = instruction.wordings[0].text if instruction.wordings else ""
    prompt = generation.prompt
    pair = PromptPair(f"{prompt} {wording}".strip(), prompt, prompt, instruction.name)
    try:
        judge = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
        judgement: Judgement = judge(pair, generation.text)
    except SaifError as error:
        return Judgement(None, str(error))
    return judgement


def judgement_line(judgement: Judgement) -> str:
    """The judgement in words, as escaped Markdown."""
    reason = escape_markdown(judgement.reason)
    name = judgement.grade or "could not judge"
    return f"**{name}**" + (f": {reason}" if reason else "")


def count_grades(judgements: Iterable[Judgement]) -> GradeCount:
    """Judgements of one arm, counted; loose counts the texts that are loose or strict."""
    grades = [judgement.grade for judgement in judgements]
    strict = grades.count("strict")
    not_judged = grades.count(None)
    return GradeCount(strict, strict + grades.count("loose"), len(grades) - not_judged, not_judged)


def grades_sentence(counts: dict[str, GradeCount]) -> str:
    """One sentence with n for every arm, as escaped Markdown; "" when nothing was judged."""
    if not any(count.judged for count in counts.values()):
        return ""
    parts = [
        f"{escape_markdown(arm)}: strictly {count.strict}, at least loosely {count.loose} of "
        f"{count.judged}"
        + (f" ({count.not_judged} could not be judged)" if count.not_judged else "")
        for arm, count in counts.items()
    ]
    return f"Texts that follow the instruction: {'; '.join(parts)}."


def size_sentence(norm: float, share: float) -> str:
    """How large the steering vector is, in the model's own units."""
    return f"raw norm {norm:,.1f} · {share:.0%} of the residual norm"


def speed_sentence(result: GenerationResult) -> str:
    """How long all arms took together, and their speed."""
    n_tokens = sum(len(text.token_ids) for text in result.generations)
    speed = f" · {n_tokens / result.seconds:.0f} tokens/s" if result.seconds else ""
    return f"{result.seconds:.1f} s{speed}"


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


def _finished(generations: Iterable[Generation]) -> tuple[ArmText, ...]:
    in_order = sorted(generations, key=lambda generation: generation.sample)
    found = tuple(ArmText(g.text, len(g.token_ids), g) for g in in_order)
    return found or (ArmText(),)


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
