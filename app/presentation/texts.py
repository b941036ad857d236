"""Texts and their judgements, as plain values and sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.presentation.escaping import escape_markdown
from saif_core.records.steering import Arm
from saif_core.records.texts import ArmSize, Generation, GenerationResult, Judgement, TokenEvent

_ENDED = {
    "end": "ended by itself",
    "stop": "ended before a stop text",
    "length": "cut at the token limit",
}


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
        arms: the samples of each arm by its name, in the order of their columns.
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
    """Tokens, how the text ended, whether it is disorder, and its perplexity, as Markdown.

    A loop is likelier to the model than a sentence, so perplexity never stands alone.
    """
    facts = [f"{text.n_tokens} token{'' if text.n_tokens == 1 else 's'}"]
    generation = text.generation
    if generation is not None:
        facts.append(_ENDED[generation.stopped])
        facts.append(disorder_words(generation))
        if generation.perplexity is not None:
            facts.append(f"perplexity {generation.perplexity:,.1f} under the unsteered model")
    return " · ".join(facts)


def disorder_words(generation: Generation) -> str:
    """Whether a text is disorder, as an evaluation counts it, and why."""
    # Imported when a text is finished: the lists of words take half a second.
    from saif_core.judging.fluency import disorder_reason

    reason = disorder_reason(generation.text, generation.perplexity)
    return f"**:material/warning: disorder: {reason}**" if reason else "no disorder"


def disorder_sentence(result: GenerationResult) -> str:
    """How many texts of each arm are disorder, with n, as escaped Markdown."""
    from saif_core.judging.fluency import is_disordered

    parts = []
    for arm in result.request.arms:
        mine = [text for text in result.generations if text.arm == arm.name]
        n = sum(is_disordered(text.text, text.perplexity) for text in mine)
        parts.append(f"{escape_markdown(arm.name)} {n} of {len(mine)}")
    return f"Broken texts (disorder: loops, invented words, no sense): {'; '.join(parts)}."


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


def arm_size_sentence(size: ArmSize) -> str:
    """How large what an arm adds is."""
    return f"{size_sentence(size.norm, size.resid_share)} at the end of a neutral prompt"


def sizes_sentence(result: GenerationResult) -> str:
    """How large what each arm adds is, as escaped Markdown; "" where no arm adds anything."""
    parts = [
        f"{escape_markdown(arm.name)}: {size_sentence(size.norm, size.resid_share)}"
        for arm, size in zip(result.request.arms, result.sizes, strict=False)
        if size is not None
    ]
    return f"{'; '.join(parts)}, at the end of a neutral prompt" if parts else ""


def plain_name(arms: Sequence[Arm], names: Sequence[str]) -> str:
    """Of arms that wrote texts, the one that the others are compared with: the unsteered one.

    Args:
        names: of those arms, in the order of their columns; without an unsteered one the first.
    """
    unsteered = (arm.name for arm in arms if arm.kind == "unsteered" and arm.name in names)
    return next(unsteered, names[0])


def speed_sentence(result: GenerationResult) -> str:
    """How long all arms took together, and their speed."""
    n_tokens = sum(len(text.token_ids) for text in result.generations)
    speed = f" · {n_tokens / result.seconds:.0f} tokens/s" if result.seconds else ""
    return f"{result.seconds:.1f} s{speed}"


def _finished(generations: Iterable[Generation]) -> tuple[ArmText, ...]:
    in_order = sorted(generations, key=lambda generation: generation.sample)
    found = tuple(ArmText(g.text, len(g.token_ids), g) for g in in_order)
    return found or (ArmText(),)
