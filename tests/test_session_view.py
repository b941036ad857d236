from dataclasses import replace
from typing import Any

import altair as alt
import pytest

from app.charts.latent import (
    WITH,
    WITHOUT,
    activation_histogram,
    activation_sentence,
    histogram_rows,
    pair_chart,
    pair_rows,
    token_bars,
)
from app.presentation.escaping import escape_markdown, promotes, visible
from app.presentation.sessions import (
    chosen_table,
    manifest,
    recipe_of_request,
    saes_of,
    session_of_work,
    session_table,
    share_link,
    split_prompts,
)
from app.presentation.texts import (
    GradeCount,
    count_grades,
    grades_sentence,
    group_events,
    group_texts,
    judgement_line,
    plain_name,
    sizes_sentence,
    text_facts,
)
from saif_core.judging.judgements import judge_generations
from saif_core.records.latents import PairActivations
from saif_core.records.prompts import PromptPair, Turn
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.sessions import SessionSummary, SteeringSession
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Origin,
    Sampling,
    Schedule,
)
from saif_core.records.texts import ArmSize, Generation, GenerationResult, Judgement, TokenEvent
from tests import saved

PAIRS = tuple(PromptPair(f"{c} !", c, c, "!") for c in ("one", "two", "three"))
ACTIVATIONS = PairActivations(7, (1.0, 3.0, 2.0), (0.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("![x](http://a)", r"\!\[x\]\(http\:\/\/a\)".replace(r"\/", "/")),
        ("<b>", r"\<b\>"),
        ("a\n# b", r"a \# b"),
        (":red[x] $y$", r"\:red\[x\] \$y\$"),
    ],
)
def test_markdown_in_a_text_is_shown_as_it_is(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_white_space_of_tokens_is_visible() -> None:
    assert visible(" a\n\t") == "·a↵⇥"
    assert promotes((" ère", "ê", "\n", "x")) == "ère · ê · ↵"


def test_prompts_are_the_lines_that_hold_something() -> None:
    assert split_prompts(" a \n\n  \nb c\r\n") == ("a", "b c")


def test_growing_texts_are_the_latest_of_each_arm_and_sample() -> None:
    events = [
        TokenEvent(0, "unsteered", "A", 1),
        TokenEvent(0, "steered", "L", 1),
        TokenEvent(0, "unsteered", "A man", 2),
        TokenEvent(1, "steered", "Un", 1, sample=1),
    ]
    first, second = group_events(["p", "q"], ["unsteered", "steered", "other"], 2, events)
    assert [text.text for text in first.arms["unsteered"]] == ["A man", ""]
    assert first.arms["steered"][0].text == "L"
    assert [text.text for text in second.arms["steered"]] == ["", "Un"]
    assert [text.text for text in second.arms["other"]] == ["", ""]
    assert text_facts(first.arms["unsteered"][0]) == "2 tokens"


def test_finished_texts_stand_by_prompt_and_arm_whatever_their_order() -> None:
    (texts,) = group_texts(["unsteered", "steered"], reversed(saved.result().generations))
    assert list(texts.arms) == ["unsteered", "steered"]
    (unsteered,), (steered,) = texts.arms.values()
    assert unsteered.text.startswith("Hello")
    assert steered.text.startswith("HELLO")
    assert text_facts(unsteered) == (
        "3 tokens · ended by itself · no disorder · perplexity 12.5 under the unsteered model"
    )
    assert text_facts(steered) == "2 tokens · cut at the token limit · no disorder"


def test_samples_stand_in_their_order_and_unknown_arms_are_shown_last() -> None:
    generations = [
        Generation(0, "p", "a", "second", (1,), "end", sample=1),
        Generation(0, "p", "a", "first", (1,), "end"),
        Generation(0, "p", "b", "x", (1,), "end"),
    ]
    (texts,) = group_texts(["b"], generations)
    assert list(texts.arms) == ["b", "a"]
    assert [text.text for text in texts.arms["a"]] == ["first", "second"]


def test_texts_are_judged_by_the_evaluator_of_the_instruction() -> None:
    result = saved.result()
    judged = judge_generations(saved.INSTRUCTION, result.request.arms, result.generations)
    assert [judgement.grade for judgement in judged] == ["none", "strict"]


@pytest.mark.parametrize("evaluator", ["casing", "no such one"])
def test_an_evaluator_that_cannot_judge_says_why(evaluator: str) -> None:
    instruction = replace(saved.INSTRUCTION, evaluator=evaluator, evaluator_parameters={})
    judgement = judge_generations(instruction, (), saved.result().generations[:1])[0]
    assert judgement.grade is None
    assert evaluator in judgement.reason
    assert judgement_line(judgement).startswith("**could not judge**: ")


def test_texts_of_an_instruction_without_an_evaluator_are_judged_by_nobody() -> None:
    instruction = replace(saved.INSTRUCTION, evaluator="", evaluator_parameters={})
    judgement = judge_generations(instruction, (), saved.result().generations[:1])[0]
    assert judgement.grade is None
    assert "nobody judges" in judgement.reason


def test_texts_that_could_not_be_judged_are_no_failures() -> None:
    grades = [Judgement(grade, "") for grade in ("strict", "loose", "none", None, "strict")]
    count = count_grades(grades)
    assert count == GradeCount(strict=2, loose=3, judged=4, not_judged=1)
    assert "strictly 2, at least loosely 3 of 4 (1 could not be judged)" in grades_sentence(
        {"steered": count}
    )
    assert grades_sentence({"steered": count_grades([Judgement(None, "")])}) == ""


def test_grades_name_every_arm_and_escape_its_name() -> None:
    counts = {name: GradeCount(1, 2, 3, 0) for name in ("unsteered", "steered", "*My* <b>")}
    sentence = grades_sentence(counts)
    assert sentence.count("strictly 1, at least loosely 2 of 3") == 3
    assert r"\*My\* \<b\>:" in sentence


def test_a_recipe_holds_its_request_whole_with_the_hashes_that_a_ranking_knows() -> None:
    request = saved.request()
    recipe = recipe_of_request(request, saved.ranking(), "elsewhere")
    assert (recipe.request, recipe.model, recipe.model_sha256) == (request, "tiny", "a" * 64)
    assert recipe.sae_sha256s == {"tiny/layer1": "b" * 64}
    told = replace(request, arms=(UNSTEERED, Arm("told", "prompted", instruction="In French.")))
    assert recipe_of_request(told, saved.ranking(), "elsewhere").sae_sha256s == {}
    unknown = recipe_of_request(request, None, "elsewhere")
    assert (unknown.model, unknown.model_sha256, unknown.sae_sha256s) == ("elsewhere", "", {})


def test_the_saes_of_a_request_are_named_once_each() -> None:
    arms = [
        Arm(name, edits=(Edit(1, sae_id=sae_id),))
        for name, sae_id in (("a", "one"), ("b", "two"), ("c", "one"), ("d", ""))
    ]
    assert saes_of(GenerationRequest(("p",), tuple(arms))) == ["one", "two"]


def test_sizes_are_told_for_every_arm_that_adds_something() -> None:
    result = saved.result()
    assert sizes_sentence(result) == (
        "steered: raw norm 383.0 · 44% of the residual norm, at the end of a neutral prompt"
    )
    two = replace(result, sizes=(ArmSize(1.0, 0.01), ArmSize(2.0, 0.02)))
    assert sizes_sentence(two).startswith("unsteered: raw norm 1.0 · 1%")
    assert "; steered: raw norm 2.0" in sizes_sentence(two)
    assert sizes_sentence(replace(result, sizes=(None, None))) == ""
    assert sizes_sentence(replace(result, sizes=())) == ""


def test_texts_are_compared_with_the_unsteered_arm_whatever_its_name_or_the_first() -> None:
    arms = (Arm("mine"), Arm("plain", "unsteered"))
    assert plain_name(arms, ["mine", "plain"]) == "plain"
    assert plain_name(arms[:1], ["mine"]) == "mine"
    assert plain_name(arms, ["mine"]) == "mine"


def drawn(chart: alt.Chart | alt.LayerChart) -> list[list[dict[str, Any]]]:
    """The data sets that a chart carries."""
    return list(chart.to_dict()["datasets"].values())


def work_request(*, strength: float = 0.8) -> GenerationRequest:
    plain, steered = saved.request().arms
    arms = (plain, replace(steered, strength=strength))
    return replace(saved.request(), prompts=("typed since",), arms=arms)


def a_session(result: GenerationResult | None, **changes: Any) -> SteeringSession:
    parts: dict[str, Any] = {
        "request": work_request(),
        "instruction": saved.INSTRUCTION,
        "ranking": saved.ranking(),
        "model": "tiny",
    }
    return session_of_work("  a \n name ", " note ", result=result, **parts | changes)


def test_a_session_keeps_what_made_its_texts_and_not_what_was_typed_since() -> None:
    ranking = saved.ranking()
    session = a_session(saved.result(), request=work_request(strength=9.0), ranking=ranking)
    assert (session.name, session.notes) == ("a name", "note")
    assert session.recipe == saved.recipe()
    assert session.request is not None
    assert session.request.prompts == ("The mayor <i>spoke</i>.",)
    assert session.ranking == ranking
    assert session.instruction == saved.INSTRUCTION


def test_a_session_without_texts_keeps_the_recipe_of_the_page() -> None:
    session = a_session(None, instruction=None)
    assert session.recipe is not None
    assert session.request is not None
    assert session.request.arms[1].strength == 0.8
    assert session.recipe.sae_sha256s == {"tiny/layer1": "b" * 64}
    assert session.request.prompts == ("typed since",)


@pytest.mark.parametrize(
    "ranking", [saved.ranking(sae="other"), saved.ranking(instruction="other")]
)
def test_a_ranking_of_something_else_stays_out_of_the_session(ranking: Ranking) -> None:
    session = a_session(None, ranking=ranking)
    assert session.ranking is None
    assert session.request == work_request()
    assert session.recipe is not None
    assert session.recipe.sae_sha256s == {}


def test_the_manifest_names_model_sae_versions_and_seed() -> None:
    rows = dict(manifest(saved.session()))
    assert rows["model sha256"] == "a" * 64
    assert rows["SAE"] == "tiny/layer1"
    assert rows["SAE sha256"] == "b" * 64
    assert rows["addition sha256"] == "c" * 64
    assert rows["hook point"] == "blocks.1.hook_resid_post"
    assert rows["model ran in"] == "float32"
    assert rows["torch"] == "2.13"
    assert "seed 3" in rows["sampling"]
    assert rows["pairs"] == "12"
    assert rows["read at"] == "the answer"
    assert rows["scope of steered"] == "the answer only"
    assert rows["steering method of steered"] == "addition"
    without_recipe = dict(manifest(replace(saved.session(), recipe=None, result=None)))
    assert without_recipe["model sha256"] == "a" * 64


def test_the_manifest_names_every_arm_the_samples_and_the_turns() -> None:
    told = Arm("told", "prompted", instruction="In French.")
    learned = Arm(
        "learned",
        edits=(Edit(2, "clamp", {"x": 1}, tensors="f" * 64),),
        schedule=Schedule("all"),
        origin=Origin("my_own", {"top": 5}),
    )
    request = replace(
        saved.request(),
        arms=(*saved.request().arms, told, learned),
        sampling=Sampling(samples=3, temperature=0.7, top_p=0.9, stop=("\n",), system="Be kind."),
        histories=((Turn("user", "a"), Turn("assistant", "b")), (), (), ()),
    )
    recipe = replace(saved.recipe(), request=request)
    rows = dict(manifest(replace(saved.session(), recipe=recipe)))
    assert rows["arm steered"] == "2 latents · strength 0.8"
    assert rows["arm told"] == "the prompt with “In French.” after it"
    assert rows["scope of learned"] == "prompt and answer"
    assert rows["steering method of learned"] == "clamp (x = 1)"
    assert rows["source of learned"] == "my own (top = 5)"
    assert rows["sampling"].startswith("temperature 0.7, top p 0.9, seed 0")
    assert r"stop at '\n'" in rows["sampling"]
    assert rows["sampling"].endswith("3 samples")
    assert rows["system prompt"] == "Be kind."
    assert rows["earlier turns of the chat"] == "2"


def test_chosen_latents_are_listed_with_what_the_ranking_says() -> None:
    table = chosen_table(saved.request().arms[1].edits[0].latents, saved.ranking())
    assert table["latent"] == [7, 3]
    assert table["with"] == [1.0, 0.75]
    assert table["promotes"] == ["oui · <b> · ↵", ""]
    other = chosen_table((ChosenLatent(9, 1.0),), saved.ranking())
    assert (other["score"], other["promotes"]) == ([None], [""])
    assert list(chosen_table(saved.request().arms[1].edits[0].latents, None)) == [
        "latent",
        "coefficient",
    ]


def test_a_list_of_sessions_shows_names_and_not_folders() -> None:
    moment = "2025-01-02T03:04:05+00:00"
    summary = SessionSummary("i", "n", "x", "/m/tiny", "tiny/layer1", 2, True, moment, moment)
    table = session_table([summary, replace(summary, updated_at="odd")])
    assert table["model"] == ["tiny", "tiny"]
    assert table["saved"][0].hour == 3
    assert table["saved"][1] is None


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("http://host:8501/sessions", "http://host:8501/?session=a-b"),
        ("https://host/saif/sessions", "https://host/saif/?session=a-b"),
        ("", "/?session=a-b"),
    ],
)
def test_a_share_link_opens_the_dashboard_at_its_root(page: str, link: str) -> None:
    assert share_link(page, "a-b") == link


def test_tokens_that_look_alike_keep_bars_of_their_own() -> None:
    (rows,) = drawn(token_bars([(" a", 2.0), ("·a", 1.0), ("b", 0.5)], promoted=True))
    assert len({row["token"] for row in rows}) == 3
    assert [row["logit"] for row in rows] == [2.0, 1.0, 0.5]


def test_pairs_are_drawn_strongest_first_with_both_sides() -> None:
    rows = pair_rows(ACTIVATIONS, PAIRS)
    assert [row["content"] for row in rows] == ["two", "three", "one"]
    lines, dots = sorted(drawn(pair_chart(ACTIVATIONS, PAIRS)), key=len)
    assert [row["with"] for row in lines] == [3.0, 2.0, 1.0]
    assert {row["side"] for row in dots} == {WITH, WITHOUT}
    assert len(dots) == 6


def test_the_histogram_counts_every_pair_once_per_side() -> None:
    rows = histogram_rows(ACTIVATIONS, n_bins=3)
    assert sum(row["n"] for row in rows if row["side"] == WITH) == 3
    assert sum(row["n"] for row in rows if row["side"] == WITHOUT) == 3
    assert {row["to"] for row in rows} <= {1.0, 2.0, 3.0}
    (shown,) = drawn(activation_histogram(ACTIVATIONS))
    assert sum(row["n"] for row in shown) == 6


def test_a_latent_that_never_fires_has_a_histogram_too() -> None:
    rows = histogram_rows(PairActivations(1, (0.0, 0.0), (0.0, 0.0)))
    assert [row["n"] for row in rows] == [2, 2]


def test_activations_are_told_with_n_and_quantiles() -> None:
    assert activation_sentence(ACTIVATIONS) == (
        "With the instruction it fires on 3 of 3 pairs (median 2.00, 90% below 2.80, most 3.00); "
        "without it fires on 1 of 3 pairs (median 0.00, 90% below 0.40, most 0.50)."
    )


def test_a_text_that_is_missing_is_shown_as_empty() -> None:
    generations = [Generation(0, "p", "steered", "x", (1,), "end")]
    (texts,) = group_texts(["unsteered", "steered"], generations)
    (unsteered,) = texts.arms["unsteered"]
    assert unsteered.text == ""
    assert unsteered.generation is None
