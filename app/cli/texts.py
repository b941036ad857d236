"""Rankings, latents and generations as the command line shows them."""

from collections.abc import Sequence
from typing import Any

from app.cli.output import shown_tokens, table
from app.presentation.arms import describe_arm, read_words
from app.presentation.figures import moment_words
from app.presentation.ranking import verdict
from app.presentation.texts import size_sentence
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import Evaluation
from saif_core.records.notes import LatentDescription
from saif_core.records.ranking import Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.texts import ArmSize, GenerationResult
from saif_core.records.vectors import VectorReport


def ranking_text(ranking: Ranking) -> str:
    """A ranking as a table of its best latents."""
    rows = [
        (
            score.index,
            score.score,
            score.rate_positive,
            score.rate_negative,
            score.mean,
            score.std,
            shown_tokens(score.top_tokens[:6]),
        )
        for score in ranking.latents[: ranking.top]
    ]
    headers = ("latent", "score", "with", "without", "mean", "std", "promotes")
    origin = "all cached" if ranking.cached else f"{ranking.tokens_computed} tokens computed"
    return (
        f"{ranking.instruction}: {ranking.n_pairs} pairs, {ranking.selector}, read at "
        f"{read_words(ranking.read)}\n"
        f"{ranking.model}, {ranking.sae} at {ranking.hook_point}\n\n"
        f"{table(headers, rows)}\n\n"
        f"{verdict(ranking)}\n{ranking.seconds:.1f} s, {origin}"
    )


def latent_text(data: dict[str, Any]) -> str:
    """What is known of a latent, as ``saif latent`` gathers it, in tables and sentences."""
    parts = [_latent_head(data), _token_table(data["promoted"], data["suppressed"])]
    if data["corpus"]:
        parts.append(_corpus_text(data["corpus"]))
    if data["token_change"]:
        change = data["token_change"]
        parts.append(
            f"likelier where it is set to its 99% quantile (n = {change['n_tokens']:,} tokens)\n"
            + _token_table(change["promoted"], change["suppressed"])
        )
    near = [(data["sae"], *pair) for pair in data["neighbours"]]
    near += [(one["sae_id"], one["latent"], one["cosine"]) for one in data["near"]]
    parts.append(table(("SAE", "neighbour", "cosine"), near))
    flow = [
        (f"{e['layer_from']}/{e['latent_from']}", f"{e['layer_to']}/{e['latent_to']}", e["cosine"])
        for e in (data["flow"] or {"edges": ()})["edges"]
    ]
    parts += [table(("flows from", "to", "cosine"), flow)] if flow else []
    parts += [_reading_text(read) for read in data["texts"]]
    parts += [f"description: {one['text']} ({one['method']})" for one in data["descriptions"]]
    parts += [f"{n['kind']}: {n['text']} ({n['author'] or 'anonymous'})" for n in data["notes"]]
    return "\n\n".join(parts)


def description_text(made: LatentDescription) -> str:
    """A description with what its tests said."""
    lines = [made.text, f"{made.method}, {made.model}"]
    if made.input_score is not None:
        lines.append(f"input score {made.input_score:.2f} (AUC over sentences; chance is 0.5)")
    if made.output_score is not None:
        lines.append(
            f"output score {made.output_score:.2f} (share of judged trials; chance is 0.33)"
        )
    return "\n".join(lines)


def _latent_head(data: dict[str, Any]) -> str:
    lines = [f"latent {data['index']} of {data['sae']} at {data['hook_point']}"]
    if data["label"]:
        lines.append(f"label: {data['label']}")
    if data["weights"]:
        norm, bias = data["weights"]["decoder_norm"], data["weights"]["encoder_bias"]
        lines.append(f"no corpus was read; decoder norm {norm:.3f}, encoder bias {bias:.3f}")
    if data["s_in"] is not None and data["s_out"] is not None:
        scores = f"S_in {data['s_in']:z.2f}, S_out {data['s_out']:z.3f}"
        lines.append(f"{data['verdict'] or 'reads or writes: not known, too few tokens'}: {scores}")
    return "\n".join(lines)


def _token_table(up: Sequence[Sequence[Any]], down: Sequence[Sequence[Any]]) -> str:
    rows = [
        (shown_tokens([one]), logit, shown_tokens([other]), less)
        for (one, logit), (other, less) in zip(up, down, strict=False)
    ]
    return table(("promotes", "logit", "suppresses", "logit"), rows)


def _corpus_text(corpus: dict[str, Any]) -> str:
    quantiles = ", ".join(f"{float(q):.0%} {v:.3g}" for q, v in corpus["quantiles"].items())
    lines = [
        f"on {corpus['name']}: fires on {corpus['n_fired']:,} of {corpus['n_tokens']:,} tokens "
        f"({100 * corpus['density']:.3g}%), maximum {corpus['maximum']:.3g}, mean "
        f"{corpus['mean']:.3g}",
        f"quantiles where it fires: {quantiles}",
        f"{corpus['first_tokens']:,} on first tokens, {corpus['special_tokens']:,} on special ones",
    ]
    partners = [f"{one['latent']} ({one['n_both']:,} tokens)" for one in corpus["cofiring"]]
    lines += [f"fires together with: {', '.join(partners)}"] if partners else []
    rows = [
        (
            "strongest" if one["kind"] == 0 else f"quarter {one['kind']}",
            one["activations"][one["firing"]],
            shown_tokens([one["tokens"][one["firing"]]]),
            "".join(one["tokens"]),
        )
        for one in corpus["examples"]
    ]
    headers = ("example", "activation", "token", "text")
    return "\n".join([*lines, *([table(headers, rows)] if rows else [])])


def _reading_text(read: dict[str, Any]) -> str:
    rows = [
        (number, shown_tokens([token]), value)
        for number, (token, value) in enumerate(
            zip(read["tokens"], read["activations"], strict=True)
        )
        if value > 0
    ]
    n_tokens = len(read["tokens"])
    return (
        table(("number", "token", "activation"), rows)
        if rows
        else (f"It fires on none of the {n_tokens:,} tokens of the text.")
    )


def generation_data(result: GenerationResult) -> dict[str, Any]:
    """A generation as JSON-ready data: the recipe, and every text as an arm."""
    data = to_json(result)
    arms = [{"name": text.pop("arm"), **text} for text in data.pop("generations")]
    return {**data, "arms": arms}


def generation_text(result: GenerationResult) -> str:
    """What each arm does, then the texts, arm under arm."""
    rows = [
        (arm.name, describe_arm(arm), _size_words(size))
        for arm, size in zip(result.request.arms, result.sizes, strict=True)
    ]
    lines = [table(("arm", "what it does", "what it adds"), rows), f"{result.seconds:.1f} s"]
    return "\n".join([*lines, *arm_texts(result)])


def arm_texts(result: GenerationResult) -> list[str]:
    """The texts under their prompts, a line for each."""
    first, lines = result.request.arms[0].name, []
    width = max(10, *(len(arm.name) + 1 for arm in result.request.arms))
    for text in result.generations:
        if text.arm == first and text.sample == 0:
            lines.append(f"\n{'prompt:':<{width}} {text.prompt}")
        lines.append(f"{text.arm + ':':<{width}} {text.text.strip()}")
    return lines


def _size_words(size: ArmSize | None) -> str:
    return size_sentence(size.norm, size.resid_share) if size else ""


def vector_text(report: VectorReport) -> str:
    """A vector's size, what it is a sum of, what adding it changes, and a warning."""
    from app.presentation.vector import explained_sentence, naive_sentence

    atoms = [
        (atom.index, atom.coefficient, share, shown_tokens(report.promoted[atom.index]))
        for atom, share in zip(report.pursuit.atoms, report.pursuit.explained, strict=True)
    ]
    changes = [
        (change.index, change.change, shown_tokens(report.promoted[change.index]))
        for change in report.changes
    ]
    n = report.n_prompts
    return "\n".join(
        [
            f"{size_sentence(report.norm, report.naive.norm_share)} (n = {n} prompts)",
            explained_sentence(report, len(atoms)),
            "",
            table(("latent", "coefficient", "explained", "promotes"), atoms),
            "",
            f"What adding it changes, mean over the last token of n = {n} prompts:",
            table(("latent", "change", "promotes"), changes),
            "",
            naive_sentence(report.naive),
        ]
    )


def evaluation_text(evaluation: Evaluation) -> str:
    """Every cell as a table, and what the figures support."""
    from app.presentation.evaluation import content_sentence, primary_measure
    from app.presentation.evaluation_files import (
        evaluation_sentence,
        setting_headers,
        setting_row,
        share_words,
    )

    best = {best.cell for best in evaluation.best}
    # Evaluations of before have no useful rates.
    is_useful = primary_measure(evaluation) == "useful"
    rows = [
        (
            "*" if number in best else "",
            *setting_row(evaluation, cell.setting),
            str(cell.rates.n),
            *([share_words(cell.rates.primary, cell.rates.primary_ci)] if is_useful else []),
            share_words(cell.rates.strict, cell.rates.strict_ci),
            share_words(cell.rates.loose, cell.rates.loose_ci),
            share_words(cell.rates.disorder, cell.rates.disorder_ci),
        )
        for number, cell in enumerate(evaluation.cells)
    ]
    counts = ("useful", "strict", "loose") if is_useful else ("strict", "loose")
    headers = ("", *setting_headers(evaluation), "n", *counts, "broken")
    return (
        f"{evaluation.request.instruction.name}: {len(evaluation.request.test_contents)} test "
        f"contents, {evaluation.model}, {evaluation.seconds:.0f} s\n\n"
        f"{table(headers, rows)}\n\n"
        "* chosen on every second content; what follows is measured on the others.\n"
        f"{evaluation_sentence(evaluation)}\n"
        f"{content_sentence(evaluation)}"
    )


def session_text(session: SteeringSession) -> str:
    """A session: what it was made with, what its arms do, and its texts."""
    lines = [f"{session.name} ({session.id})", f"saved {moment_words(session.updated_at)}"]
    if session.notes:
        lines += ["", session.notes]
    if session.instruction:
        lines += ["", f"instruction: {session.instruction.name}"]
    if session.recipe:
        rows = [(arm.name, describe_arm(arm)) for arm in session.recipe.request.arms]
        lines += [f"model {session.recipe.model}", "", table(("arm", "what it does"), rows)]
    return "\n".join(lines + (arm_texts(session.result) if session.result else []))
