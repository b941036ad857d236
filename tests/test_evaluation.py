"""Evaluations on a tiny model whose right answer is planted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saif_core.errors import (
    EvaluatorError,
    HookPointError,
    JobCancelled,
    SaifError,
    SteeringError,
    UnknownNameError,
)
from saif_core.evaluating import content as evaluation_content
from saif_core.evaluating import texts as evaluation_texts
from saif_core.evaluating.content import ContentJudge
from saif_core.evaluating.evaluation import evaluate
from saif_core.evaluating.plan import check_request, plan_settings
from saif_core.evaluating.rates import paired_p, rates_of
from saif_core.finding.sources.denoised import largest_differences
from saif_core.finding.sources.saif import drop_silent_latents
from saif_core.inputs.shipped import shipped_contents, shipped_instructions, shipped_references
from saif_core.judging import fluency
from saif_core.judging.content import choose_others
from saif_core.models.loaded_model import LoadedModel
from saif_core.pipeline import rank_latents
from saif_core.reading.mean_difference import read_mean_difference
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import (
    Candidate,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Sampling
from saif_core.registry import STEERING_METHODS
from saif_core.saes.loaded_sae import LoadedSae
from tests import tiny

CONTENTS = tuple(tiny.contents(16, seed=4))


@pytest.fixture(scope="module")
def model(endless_model: LoadedModel) -> LoadedModel:
    return endless_model


@pytest.fixture(scope="module")
def sae(tiny_sae: LoadedSae) -> LoadedSae:
    return tiny_sae


@pytest.fixture(scope="module")
def request_() -> EvaluationRequest:
    instruction = Instruction(
        "planted",
        "",
        "ifeval",
        {"instruction_id": "keywords:existence", "arguments": '{"keywords": ["oui"]}'},
        (Wording(tiny.PLANTED_WORD), Wording(f"{tiny.PLANTED_WORD} .")),
    )
    return EvaluationRequest(
        instruction,
        ("tiny-sae",),
        rank_contents=CONTENTS[:4],
        rank_wordings=(tiny.PLANTED_WORD,),
        test_contents=CONTENTS[4:],
        test_wordings=(f"{tiny.PLANTED_WORD} .", tiny.PLANTED_WORD),
        candidates=(
            Candidate("saif", {"top": (1, 2)}),
            Candidate("denoised", {"top": (2,)}),
            Candidate("mean_difference"),
            Candidate("saif", {"top": (1, 2)}, "clamp"),
        ),
        controls=("random",),
        strengths=(0.01, 1.0),
        read="last-token",
        # Four times one word would be a loop, which is a broken text.
        sampling=Sampling(max_new_tokens=3),
    )


@pytest.fixture(autouse=True, scope="module")
def senseless_is_sense() -> Iterator[None]:
    """Whatever a random model is steered to write, it finds unlikely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fluency, "WORST_PERPLEXITY", 1e9)
        yield


@pytest.fixture(scope="module")
def done(
    model: LoadedModel, sae: LoadedSae, request_: EvaluationRequest
) -> tuple[Evaluation, list[Any]]:
    return evaluate(model, [sae], request_)


def cell(evaluation: Evaluation, arm: str, **wanted: object) -> Cell:
    found = [
        one
        for one in evaluation.cells
        if one.setting.arm == arm
        and all(
            getattr(one.setting, name, one.setting.parameters.get(name)) == value
            for name, value in wanted.items()
        )
    ]
    assert len(found) == 1
    return found[0]


def plainly(one: Cell) -> Cell:
    parts = {
        name: replace(rates, perplexity=float(f"{rates.perplexity:.3g}"))
        for name in ("rates", "choosing", "reporting")
        if (rates := getattr(one, name)).perplexity is not None
    }
    return replace(one, **parts)


def test_the_planted_latent_is_found_out(done: tuple[Evaluation, list[Any]]) -> None:
    evaluation, _ = done
    assert cell(evaluation, "unsteered").rates.strict == 0
    assert cell(evaluation, "prompted").rates.strict == 1
    steered = cell(evaluation, "saif", top=1, strength=1.0)
    assert steered.rates.strict == 1
    assert steered.p_unsteered == pytest.approx(2 * 0.5**12)
    assert cell(evaluation, "saif", top=1, strength=0.01).rates.strict == 0
    assert cell(evaluation, "mean_difference", strength=1.0).rates.strict == 1
    best = {one.arm: one for one in evaluation.best}
    chosen = evaluation.cells[best["saif"].cell]
    assert chosen.setting.strength == 1.0
    control = cell(evaluation, "random", of="saif")
    assert control.setting == replace(chosen.setting, arm="random", of="saif")
    assert control.rates.strict == 0
    assert best["saif"].p_random == pytest.approx(2 * 0.5**6)
    assert best["saif"].rates.n == 6
    assert evaluation.best_sae_arm in ("saif", "denoised", "saif by clamp")
    made = evaluation.made_for(steered.setting)
    assert made == evaluation.made_for(replace(steered.setting, arm="random", of="saif"))
    assert made is not None
    assert [latent.index for edit in made.edits for latent in edit.latents] == [tiny.PLANTED_LATENT]


def test_figures_are_those_of_the_texts(done: tuple[Evaluation, list[Any]]) -> None:
    evaluation, texts = done
    for number, one in enumerate(evaluation.cells):
        mine = [text for text in texts if text.cell == number]
        assert [text.content for text in mine] == list(evaluation.request.test_contents)
        assert one.rates == rates_of(mine)
        assert one.choosing == rates_of(mine[::2])
        assert one.reporting == rates_of(mine[1::2])
        judged = [("oui" in text.text) == (text.grade == "strict") for text in mine]
        assert all(judged)
    numbers = {one.setting: number for number, one in enumerate(evaluation.cells)}
    plain = [text for text in texts if text.cell == numbers[CellSetting("unsteered")]]
    for number, one in enumerate(evaluation.cells[1:], start=1):
        assert one.p_unsteered == paired_p([t for t in texts if t.cell == number], plain)


def test_an_evaluation_survives_json(done: tuple[Evaluation, list[Any]]) -> None:
    evaluation, texts = done
    assert {made.arm for made in evaluation.made} == {c.arm for c in evaluation.request.candidates}
    assert all(made.origin is not None for made in evaluation.made)
    assert from_json(Evaluation, to_json(evaluation)) == evaluation
    assert from_json(type(texts[0]), to_json(texts[0])) == texts[0]


def test_the_same_seed_gives_the_same_report_and_another_one_another(
    model: LoadedModel, sae: LoadedSae, request_: EvaluationRequest
) -> None:
    sampled = replace(
        request_,
        baselines=("unsteered",),
        candidates=request_.candidates[:1],
        controls=(),
        strengths=(0.2,),
    )
    runs = [
        evaluate(
            model,
            [sae],
            replace(sampled, sampling=replace(request_.sampling, temperature=1.0, seed=seed)),
            cache=tiny.MemoryCache(),
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0][1] == runs[1][1]
    assert runs[0][0].cells == runs[1][0].cells
    assert [text.text for text in runs[0][1]] != [text.text for text in runs[2][1]]


@pytest.mark.parametrize("n_steps", [2, 9, 17, 26])
def test_an_interrupted_evaluation_resumes_to_the_same_figures(
    model: LoadedModel,
    sae: LoadedSae,
    request_: EvaluationRequest,
    done: tuple[Evaluation, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    n_steps: int,
) -> None:
    monkeypatch.setattr(evaluation_texts, "ROWS_PER_BATCH", 30)
    calls = 0

    def stop(_done: int, _total: int, _message: str) -> None:
        nonlocal calls
        calls += 1
        if calls > n_steps:
            raise JobCancelled("stopped")

    cache = tiny.MemoryCache()
    with pytest.raises(JobCancelled):
        evaluate(model, [sae], request_, cache=cache, step=stop)
    kept = len(cache.payloads)
    again, texts = evaluate(model, [sae], request_, cache=cache)
    assert [text.text for text in texts] == [text.text for text in done[1]]
    # Perplexities carry the rounding of the batch that they were read in.
    assert list(map(plainly, again.cells)) == list(map(plainly, done[0].cells))
    finished = len(cache.payloads)
    assert kept < finished
    evaluate(model, [sae], request_, cache=cache)
    assert len(cache.payloads) == finished


def test_every_arm_gets_its_settings_and_controls(request_: EvaluationRequest) -> None:
    asked = replace(
        request_,
        baselines=("unsteered",),
        candidates=(
            Candidate("saif", {"top": (1, 5), "beta": (0.0, 1.0)}),
            Candidate("one_latent", {"beta": (0.0, 1.0)}),
            Candidate("denoised"),
            Candidate("saif", {"top": (1, 5)}, "ablate"),
        ),
        controls=("random", "flipped"),
        strengths=(1.0, 2.0),
        together=True,
        controls_of="all",
    )
    settings = plan_settings(asked, [3, 5])
    assert len(settings) == len(set(settings))
    count = {arm: sum(s.arm == arm for s in settings) for arm in asked.arms}
    # 3 places (two layers and both together) × strengths × β × numbers of latents
    assert count["unsteered"] == 1
    assert count["saif"] == 3 * 2 * 2 * 2
    assert count["one_latent"] == 3 * 2 * 2
    assert count["denoised"] == 3 * 2
    assert count["saif by ablate"] == 3 * 2 * 2
    assert count["random"] == count["flipped"] == 24 + 12 + 6 + 12
    parameters = {"top": 5, "beta": 1.0, "least_output_score": 0.0}
    assert CellSetting("random", "saif", (3, 5), parameters, 2.0) in settings
    few = plan_settings(replace(asked, controls_of="best"), [3])
    assert not any(setting.arm in ("random", "flipped") for setting in few)


def test_requests_that_cannot_be_carried_out_are_refused(request_: EvaluationRequest) -> None:
    def refused(match: str, error: type[SaifError] = EvaluatorError, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            check_request(replace(request_, **changes))

    def tried(*candidates: Candidate) -> dict[str, Any]:
        return {"candidates": candidates}

    check_request(request_)
    refused("no source called 'guess'", UnknownNameError, **tried(Candidate("guess")))
    refused("method called 'guess'", UnknownNameError, **tried(Candidate("saif", method="guess")))
    refused("no parameter 'k'", SteeringError, **tried(Candidate("saif", {"k": (1,)})))
    refused("from 1 to 1000", SteeringError, **tried(Candidate("saif", {"top": (1, 0)})))
    refused("No value was given", SteeringError, **tried(Candidate("saif", {"top": ()})))
    refused("but no method", SteeringError, **tried(Candidate("saif", method_grid={"x": (1,)})))
    refused("asked for twice", **tried(Candidate("saif"), Candidate("saif", {"top": (1,)})))
    refused("No arm is chosen", baselines=(), controls=(), candidates=())
    refused("no steered arm to be matched to", candidates=())
    refused("1 contents were to rank", rank_contents=CONTENTS[:5])
    refused("needs contents to learn from", rank_contents=())
    refused("needs a wording to learn from", rank_wordings=())
    many = [Candidate("saif", method=method) for method in ("", *STEERING_METHODS.names())]
    refused("33 steered arms were asked for", **tried(*(many * 33)[:33]))
    refused("at least 2", test_contents=CONTENTS[4:5])
    refused("no wording to prompt with", test_wordings=())
    refused("needs a strength", strengths=())
    refused("needs an SAE or a layer", sae_ids=())
    refused("not a finite number", strengths=(float("nan"),))
    broken = replace(request_.instruction, evaluator_parameters={"wrong": 1})
    refused("no parameter", instruction=broken)
    with pytest.raises(ValueError, match="baselines"):
        from_json(EvaluationRequest, {**to_json(request_), "baselines": ["guess"]})
    with pytest.raises(ValueError, match="strengths"):
        from_json(EvaluationRequest, {**to_json(request_), "strengths": [1.0] * 21})


def test_an_instruction_that_nobody_judges_cannot_be_measured(request_: EvaluationRequest) -> None:
    silent = replace(request_.instruction, evaluator="", evaluator_parameters={})
    with pytest.raises(EvaluatorError, match="has no evaluator, so nobody can say"):
        check_request(replace(request_, instruction=silent))


def test_samples_that_would_not_be_written_are_refused(request_: EvaluationRequest) -> None:
    several = replace(request_.sampling, samples=2)
    with pytest.raises(EvaluatorError, match="2 samples of each text were asked for"):
        check_request(replace(request_, sampling=several))


def test_a_layer_without_an_sae_is_for_sources_that_need_none(
    model: LoadedModel, request_: EvaluationRequest
) -> None:
    asked = replace(request_, sae_ids=(), layers=(0, 1), candidates=(Candidate("mean_difference"),))
    evaluation, _ = evaluate(model, [], asked)
    assert {one.setting.layers for one in evaluation.cells} == {(), (0,), (1,)}
    assert cell(evaluation, "mean_difference", layers=(1,), strength=1.0).rates.strict == 1
    assert evaluation.best_sae_arm == ""
    with pytest.raises(HookPointError, match="needs an SAE at layer 0"):
        evaluate(model, [], replace(asked, candidates=(Candidate("saif"),)))


def test_a_mean_difference_is_that_of_the_means(model: LoadedModel) -> None:
    pairs = tiny.planted_pairs(5)
    asked = RankingRequest("", "planted", pairs, read="last-token")
    found = read_mean_difference(model, asked, [0, 1])
    for layer, vector in found.items():
        ends = [
            [model.resid_at_end(model.encode_prompt(text, chat=True), layer) for text in side]
            for side in ([p.positive for p in pairs], [p.negative for p in pairs])
        ]
        expected = torch.stack(ends[0]).mean(0) - torch.stack(ends[1]).mean(0)
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-4)


def test_denoising_keeps_the_largest_differences(model: LoadedModel, sae: LoadedSae) -> None:
    asked = RankingRequest(sae.id, "planted", tiny.planted_pairs(6), read="last-token")
    ranking = rank_latents(model, sae, asked)
    kept = largest_differences(ranking, 3)
    differences = {latent.index: latent.mean_difference for latent in ranking.latents}
    sizes = sorted(np.abs(list(differences.values())))
    assert [abs(latent.coefficient) for latent in kept] == pytest.approx(sizes[::-1][:3])
    assert all(latent.coefficient == differences[latent.index] for latent in kept)


def test_latents_that_do_not_write_are_dropped(model: LoadedModel, sae: LoadedSae) -> None:
    asked = RankingRequest(sae.id, "planted", tiny.planted_pairs(6), read="last-token")
    ranking = rank_latents(model, sae, asked)
    kept = drop_silent_latents(model, sae, ranking, 0.3)
    assert tiny.PLANTED_LATENT in [latent.index for latent in kept.latents]
    assert len(kept.latents) < len(ranking.latents)
    with pytest.raises(SteeringError, match="output score of 2 or more"):
        drop_silent_latents(model, sae, ranking, 2.0)


# --- useful texts

SHIPPED = tuple(shipped_contents()[:24])
GERMAN = shipped_references("de")
WEAK, STRONG = 0.5, 1.0


def translating(**changes: Any) -> EvaluationRequest:
    """Steering shipped contents into German, by one vector at two strengths."""
    made = EvaluationRequest(
        shipped_instructions()["translate-to-german"],
        (),
        rank_contents=SHIPPED[:4],
        rank_wordings=("In German.",),
        test_contents=SHIPPED[4:],
        test_wordings=("Auf Deutsch.",),
        layers=(1,),
        candidates=(Candidate("mean_difference"),),
        controls=(),
        strengths=(WEAK, STRONG),
        read="last-token",
        sampling=Sampling(max_new_tokens=2),
    )
    return replace(made, **changes)


def of_another(content: str) -> str:
    """A right translation of another content, which the content is compared with."""
    return GERMAN[choose_others(content, shipped_contents())[0]]


def planted_text(setting: CellSetting, number: int, content: str) -> str:
    """Strong steering always writes German, but about something else; weak one half of the time."""
    if setting.arm == "prompted":
        return GERMAN[content]
    if setting.strength == STRONG:
        return of_another(content)
    if setting.strength == WEAK and number % 4 < 2:
        return GERMAN[content]
    return content


PlantTexts = Callable[[Callable[[CellSetting, int, str], str]], None]


@pytest.fixture
def plant_texts(monkeypatch: pytest.MonkeyPatch) -> PlantTexts:
    """Has evaluations write given texts, instead of what the model would write."""

    def plant(text_of: Callable[[CellSetting, int, str], str]) -> None:
        def write(
            self: evaluation_texts.TextWriter, settings: Sequence[CellSetting], *_: int
        ) -> list[list[evaluation_texts._Written]]:
            contents = list(enumerate(self._request.test_contents))
            return [
                [evaluation_texts._Written(text_of(one, *numbered), 5.0) for numbered in contents]
                for one in settings
            ]

        monkeypatch.setattr(evaluation_texts.TextWriter, "_write", write)

    return plant


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collects the texts, with their contents, that are compared with others."""
    pairs: list[tuple[str, str]] = []
    judge = evaluation_content.judge_contents

    def listen(scorer: Any, texts: Sequence[str], contents: Sequence[str], pool: Any) -> Any:
        pairs.extend(zip(texts, contents, strict=True))
        return judge(scorer, texts, contents, pool)

    monkeypatch.setattr(evaluation_content, "judge_contents", listen)
    return pairs


def texts_of(evaluation: Evaluation, texts: Sequence[EvaluationText], one: Cell) -> list[Any]:
    number = evaluation.cells.index(one)
    return [text for text in texts if text.cell == number]


def test_strict_texts_about_another_content_are_not_useful(
    model: LoadedModel, plant_texts: PlantTexts
) -> None:
    plant_texts(planted_text)
    evaluation, texts = evaluate(model, [], translating())
    assert (evaluation.content_measure, evaluation.content_reason) == ("chrf", "")
    prompted, strong = (
        cell(evaluation, "prompted"),
        cell(evaluation, "mean_difference", strength=STRONG),
    )
    assert (strong.rates.strict, strong.rates.useful) == (1.0, 0.0)
    assert {text.about for text in texts_of(evaluation, texts, strong)} == {False}
    assert (prompted.rates.strict, prompted.rates.useful) == (1.0, 1.0)
    assert {text.about for text in texts_of(evaluation, texts, prompted)} == {True}
    # All of its texts are strict, so only a test of useful ones tells it from prompting.
    assert strong.p_prompted == pytest.approx(2 * 0.5**20)
    assert strong.p_unsteered == 1.0
    assert prompted.p_prompted is None


def test_settings_are_chosen_by_useful_texts(model: LoadedModel, plant_texts: PlantTexts) -> None:
    plant_texts(planted_text)
    evaluation, texts = evaluate(model, [], translating())
    weak = cell(evaluation, "mean_difference", strength=WEAK)
    assert (
        weak.choosing.strict < cell(evaluation, "mean_difference", strength=STRONG).choosing.strict
    )
    best = {one.arm: one for one in evaluation.best}["mean_difference"]
    assert evaluation.cells[best.cell] == weak
    assert (best.rates.n, best.rates.useful) == (10, 0.5)
    halves = [
        texts_of(evaluation, texts, one)[1::2] for one in (weak, cell(evaluation, "prompted"))
    ]
    assert best.p_prompted == paired_p(*halves) == pytest.approx(2 * 0.5**5)


def loops(content: str) -> str:
    """German that says the same again and again, which is a broken text."""
    return " ".join([GERMAN[content]] * 6)


def test_only_strict_and_whole_texts_are_asked_what_they_are_about(
    model: LoadedModel, plant_texts: PlantTexts, asked: list[tuple[str, str]]
) -> None:
    def mixed(setting: CellSetting, number: int, content: str) -> str:
        if setting.arm == "prompted":
            return loops(content)
        return GERMAN[content] if setting.strength == STRONG and number % 2 else content

    plant_texts(mixed)
    evaluation, texts = evaluate(model, [], translating())
    right = [content for number, content in enumerate(SHIPPED[4:]) if number % 2]
    assert sorted(asked) == sorted((GERMAN[content], content) for content in right)
    broken = texts_of(evaluation, texts, cell(evaluation, "prompted"))
    assert {(text.grade, text.outcome, text.about) for text in broken} == {
        ("strict", "disorder", None)
    }
    assert cell(evaluation, "prompted").rates.useful == 0.0
    assert {text.about for text in texts if text.grade == "none"} == {None}
    assert [text.content for text in texts if text.about] == right


def test_what_a_text_is_about_is_kept_in_the_cache(
    model: LoadedModel, plant_texts: PlantTexts, asked: list[tuple[str, str]]
) -> None:
    plant_texts(planted_text)
    cache = tiny.MemoryCache()
    _, texts = evaluate(model, [], translating(), cache=cache)
    n_pairs = len(asked)
    # Each distinct pair is looked at once: 20 translations, and 20 of other contents.
    assert n_pairs == len(set(asked)) == 40
    _, again = evaluate(model, [], translating(), cache=cache)
    assert again == texts
    assert len(asked) == n_pairs
    evaluate(model, [], translating(), cache=tiny.MemoryCache())
    assert len(asked) == 2 * n_pairs


def test_a_kept_verdict_is_of_one_text_with_one_content(model: LoadedModel) -> None:
    judge = ContentJudge(model, translating(), tiny.MemoryCache())
    one, other = SHIPPED[4], choose_others(SHIPPED[4], shipped_contents())[0]
    right, wrong, same_text = (GERMAN[one], one), (GERMAN[other], one), (GERMAN[one], other)
    said = {right: True, wrong: False, same_text: False}
    assert judge.judge([right, wrong, right]) == {right: True, wrong: False}
    assert judge.judge([same_text, wrong, right]) == said


def test_where_contents_are_too_few_useful_is_strict_and_whole(
    model: LoadedModel, plant_texts: PlantTexts, asked: list[tuple[str, str]]
) -> None:
    def half_broken(_setting: CellSetting, number: int, _content: str) -> str:
        return loops(SHIPPED[number]) if number % 4 == 0 else GERMAN[SHIPPED[number]]

    plant_texts(half_broken)
    few = translating(rank_contents=CONTENTS[:4], test_contents=CONTENTS[4:])
    evaluation, texts = evaluate(model, [], few)
    assert evaluation.content_measure == ""
    assert "12 contents in all; give at least 20" in evaluation.content_reason
    for one in evaluation.cells:
        assert (one.rates.n, one.rates.strict, one.rates.useful) == (12, 1.0, 0.75)
    assert {text.about for text in texts} == {None}
    assert asked == []
