"""Study: everything is read once, answers are judged, and a loss can be learned by."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saif_core.errors import (
    HookPointError,
    JobCancelled,
    ModelError,
    PromptPairError,
    SteeringError,
    UnknownNameError,
)
from saif_core.finding.study import Study, Target
from saif_core.inputs.shipped import learning_contents, learning_references, shipped_contents
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.pipeline import rank_latents
from saif_core.records.prompts import Instruction, PromptPair, Wording
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.registry import SELECTORS
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from saif_core.steering.target import VECTOR
from saif_core.steering.tensors import Tensors
from tests import tiny

LAYER = 1
INSTRUCTION = Instruction(
    "planted",
    "",
    "keyword",
    {"keyword": tiny.PLANTED_ANSWER},
    (Wording(tiny.PLANTED_WORD),),
)


@pytest.fixture
def asked(sae: LoadedSae) -> RankingRequest:
    return RankingRequest(
        sae.id,
        "planted",
        tiny.planted_pairs(6),
        read="last-token",
        response_tokens=4,
        judged_by=INSTRUCTION,
    )


@pytest.fixture
def study(model: LoadedModel, sae: LoadedSae, asked: RankingRequest) -> Study:
    return Study(model, [sae], asked, layers=[0])


@contextmanager
def passes(model: LoadedModel) -> Iterator[list[None]]:
    """One entry for every forward pass of the model."""
    seen: list[None] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: seen.append(None))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "read",
    [
        lambda study: study.latents(LAYER)[0],
        lambda study: study.resid(LAYER),
        lambda study: study.ranking(LAYER),
        lambda study: study.ranking(LAYER, "sensitivity", compare="higher"),
        lambda study: study.mean_difference(LAYER),
        lambda study: study.answers(n=2, max_new_tokens=2),
    ],
    ids=["latents", "resid", "ranking", "selector", "mean difference", "answers"],
)
@pytest.mark.parametrize("position", ["last-token", "response"])
def test_what_was_read_is_not_read_again(
    model: LoadedModel, study: Study, read: Callable[[Study], Any], position: Any
) -> None:
    study.request = replace(study.request, read=position)
    with passes(model) as seen:
        first = read(study)
        n_first = len(seen)
        again, elsewhere = read(study), read(study.at((LAYER,)))
    assert n_first > 0
    assert len(seen) == n_first
    assert again is elsewhere is first


def test_rankings_of_several_selectors_share_what_they_compare(
    model: LoadedModel, study: Study
) -> None:
    study.latents(LAYER)
    with passes(model) as seen:
        rankings = [study.ranking(LAYER, name) for name in SELECTORS.names()]
    assert not seen
    assert {ranking.latents[0].index for ranking in rankings} == {tiny.PLANTED_LATENT}
    assert [ranking.selector for ranking in rankings] == SELECTORS.names()


def test_a_mean_difference_reads_all_layers_in_one_pass(model: LoadedModel, study: Study) -> None:
    assert study.layers == (LAYER, 0)
    with passes(model) as seen:
        study.at((0,)).mean_difference(0)
    n_first = len(seen)
    vector = study.mean_difference(LAYER)
    assert len(seen) == n_first
    positive, negative = study.resid(LAYER)
    torch.testing.assert_close(vector, positive.mean(0) - negative.mean(0), rtol=1e-4, atol=1e-4)


def test_resid_is_that_of_each_prompt_alone(
    model: LoadedModel, study: Study, asked: RankingRequest
) -> None:
    positive, negative = study.resid(LAYER)
    for rows, texts in (
        (positive, [pair.positive for pair in asked.pairs]),
        (negative, [pair.negative for pair in asked.pairs]),
    ):
        alone = [model.resid_at_end(model.encode_prompt(text, chat=True), LAYER) for text in texts]
        torch.testing.assert_close(rows, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_a_ranking_is_the_one_that_people_are_shown(
    model: LoadedModel, sae: LoadedSae, study: Study, asked: RankingRequest
) -> None:
    shown = rank_latents(model, sae, replace(asked, selector="correlation"))
    found = study.ranking(LAYER, "correlation")
    assert found.latents == shown.latents
    with pytest.raises(UnknownNameError, match="selector called 'guess'"):
        study.ranking(LAYER, "guess")
    with pytest.raises(SteeringError, match="no parameter 'compare'"):
        study.ranking(LAYER, "correlation", compare="fires")


def test_the_key_changes_with_whatever_decides_what_is_found(
    model: LoadedModel, sae: LoadedSae, study: Study, asked: RankingRequest
) -> None:
    def key(*saes: LoadedSae, layers: tuple[int, ...] = (0,), seed: int = 0, **changes: Any) -> str:
        return Study(model, saes, replace(asked, **changes), layers=layers, seed=seed).key

    other = copy.copy(sae)
    other.sha256 = "b" * 64
    keys = [
        key(sae),
        key(sae, pairs=asked.pairs[:-1]),
        key(sae, read="response"),
        key(sae, read="response", response_tokens=5),
        key(sae, chat=False),
        key(sae, selector="correlation"),
        key(sae, selector_parameters={"compare": "higher"}),
        key(sae, judged_by=None),
        key(sae, layers=()),
        key(sae, seed=1),
        key(other),
        key(layers=(LAYER, 0)),
    ]
    assert len(set(keys)) == len(keys)
    assert study.key == keys[0] == key(sae, sae_id="")
    assert study.at((LAYER,)).key == key(sae, layers=())
    assert study.at((LAYER,)).key != study.key


def test_answers_are_written_and_judged(study: Study, asked: RankingRequest) -> None:
    plain = study.answers(n=4, max_new_tokens=3)
    told = study.answers(prompted=True, n=4, max_new_tokens=3)
    edit = study.edit(LAYER, latents=[ChosenLatent(tiny.PLANTED_LATENT, 8.0)], share=1.0)
    steered = study.answers([edit], n=4, max_new_tokens=3)
    weaker = study.answers([edit], n=4, max_new_tokens=3, strength=0.001)
    assert [answer.pair for answer in plain] == list(asked.pairs[:4])
    assert {answer.judgement.grade for answer in plain} == {"none"}
    for answers in (told, steered):
        assert [answer.text.split() for answer in answers] == [["oui"] * 3] * 4
        assert all(answer.judgement.grade != "none" for answer in answers)
        assert all(len(answer.token_ids) == 3 for answer in answers)
    assert [answer.text for answer in weaker] == [answer.text for answer in plain]
    assert [answer.prompt for answer in steered] == [answer.prompt for answer in plain]
    assert told[0].prompt != plain[0].prompt


def test_each_content_is_answered_once_by_its_wordings_in_turn(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    pairs = tuple(
        PromptPair(f"{content} {wording}", content, content, wording)
        for content in ("one", "two", "three")
        for wording in ("PLANT", "PLANT .")
    )
    study = Study(model, [sae], replace(asked, pairs=pairs))
    answers = study.answers(prompted=True, n=9, max_new_tokens=1)
    assert [answer.pair.positive for answer in answers] == [
        "one PLANT",
        "two PLANT .",
        "three PLANT",
    ]


def test_draws_follow_the_seed(model: LoadedModel, sae: LoadedSae, asked: RankingRequest) -> None:
    def texts(seed: int) -> list[str]:
        study = Study(model, [sae], asked, seed=seed)
        return [a.text for a in study.answers(n=3, max_new_tokens=6, temperature=2.0)]

    assert texts(1) == texts(1) != texts(2)


def test_an_instruction_without_an_evaluator_cannot_be_judged(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    study = Study(model, [sae], replace(asked, judged_by=None))
    with pytest.raises(SteeringError, match="names no evaluator"):
        study.answers()
    with pytest.raises(SteeringError, match="names no evaluator"):
        study.targets()


def test_targets_are_prompts_without_the_instruction_and_answers_with_it(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    strict = {"instruction_id": "keywords:existence", "arguments": '{"keywords": ["oui"]}'}
    judged = replace(INSTRUCTION, evaluator="ifeval", evaluator_parameters=strict)
    study = Study(model, [sae], replace(asked, judged_by=judged))
    targets = study.targets(n=3, max_new_tokens=2)
    oui = model.tokenizer(f" {tiny.PLANTED_ANSWER}", add_special_tokens=False)["input_ids"]
    assert targets == [
        Target(tuple(model.encode_prompt(pair.negative, chat=True)), tuple(oui * 2))
        for pair in asked.pairs[:3]
    ]
    never = replace(judged, evaluator_parameters={**strict, "arguments": '{"keywords": ["no"]}'})
    study = Study(model, [sae], replace(asked, judged_by=never))
    with pytest.raises(SteeringError, match="None of 3 answers .* nothing to learn from"):
        study.targets(n=3, max_new_tokens=2)


def test_learning_goes_on_with_shipped_contents_where_there_are_too_few(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    judged = replace(INSTRUCTION, evaluator="casing", evaluator_parameters={"casing": "lower"})
    own = {pair.negative for pair in asked.pairs}
    study = Study(model, [sae], replace(asked, judged_by=judged))
    few = study.answers(n=len(own) + 3, max_new_tokens=2)
    assert {answer.pair.negative for answer in few} == own
    more = study.answers(n=len(own) + 3, max_new_tokens=2, fill=True)
    assert [answer.pair for answer in more[: len(own)]] == [answer.pair for answer in few]
    added = [answer.pair for answer in more[len(own) :]]
    assert [pair.negative for pair in added] == list(learning_contents()[:3])
    assert all(pair.positive == f"{pair.content} {pair.instruction}" for pair in added)
    assert {pair.instruction for pair in added} <= {pair.instruction for pair in asked.pairs}
    before = [replace(p, positive=f"{p.instruction} {p.content}") for p in asked.pairs]
    study = Study(model, [sae], replace(asked, pairs=tuple(before), judged_by=judged))
    last = study.answers(n=len(own) + 1, max_new_tokens=2, fill=True)[-1].pair
    assert last.positive == f"{last.instruction} {last.content}"


def test_without_pairs_the_instructions_own_wordings_are_learned_with(
    model: LoadedModel, asked: RankingRequest
) -> None:
    wordings = (Wording("Leise.", "de"), Wording("Be quiet."), Wording("Whisper."))
    judged = replace(
        INSTRUCTION,
        evaluator="casing",
        evaluator_parameters={"casing": "lower"},
        wordings=wordings,
    )
    study = Study(model, [], replace(asked, pairs=(), judged_by=judged), layers=[0])
    pairs = [answer.pair for answer in study.answers(n=3, max_new_tokens=2, fill=True)]
    assert [pair.negative for pair in pairs] == list(learning_contents()[:3])
    assert [pair.instruction for pair in pairs] == ["Be quiet.", "Whisper.", "Be quiet."]


def test_translations_are_learned_from_those_that_come_with_the_contents(
    model: LoadedModel, asked: RankingRequest
) -> None:
    german = replace(INSTRUCTION, evaluator="language", evaluator_parameters={"language": "de"})
    bare = replace(asked, pairs=(), judged_by=german)
    study = Study(model, [], bare, layers=[0])
    targets = study.targets(n=3, max_new_tokens=400)
    known = learning_references("de")
    for target, content in zip(targets, learning_contents(), strict=False):
        assert target.prompt == tuple(model.encode_prompt(content, chat=True))
        ids = model.tokenizer.encode(known[content], add_special_tokens=False)
        assert target.answer == (*ids, min(model.end_token_ids))
    (short, *_) = study.targets(n=3, max_new_tokens=4)
    assert short.answer == targets[0].answer[:4]
    (told, *_) = study.targets(n=1, max_new_tokens=4, told=True)
    assert told.answer == short.answer
    assert told.prompt != short.prompt
    # English is what contents are in, and nobody has translated a person's own ones.
    english = replace(german, evaluator_parameters={"language": "en"})
    assert english.translates_into == ""
    assert german.translates_into == "de"
    with pytest.raises(SteeringError, match="nothing to learn from"):
        Study(model, [], replace(bare, judged_by=english), layers=[0]).targets(n=3)


def test_contents_to_learn_from_have_a_translation_into_each_language() -> None:
    for language in ("fr", "de", "es", "zh"):
        found = learning_references(language)
        assert list(found) == list(learning_contents())
        assert len(set(found.values())) == 240
        assert not any("\u00a0" in text or "\u202f" in text for text in found.values())
    assert learning_references("it") == {}


def test_contents_to_learn_from_are_none_to_test_on() -> None:
    assert len(learning_contents()) == 240
    assert not set(learning_contents()) & set(shipped_contents())


TARGETS = (Target((5, 6, 7, 8), (9, 10, 11)), Target((12, 13), (14,)), Target((3,), (4, 5)))


def cross_entropy(model: LoadedModel, push: Callable[[Tensor, int], Tensor] | None = None) -> float:
    """The mean loss of ``TARGETS``, one sequence at a time and token by token."""
    losses = []
    for target in TARGETS:
        ids = torch.tensor([[*target.prompt, *target.answer]])

        def edit(resid: Tensor, n: int = len(target.prompt)) -> Tensor:
            return resid if push is None else push(resid, n)

        with edit_resid(model.blocks[0], edit):
            log_probs = model.logits(ids)[0].float().log_softmax(-1)
        for step, token in enumerate(target.answer):
            losses.append(-float(log_probs[len(target.prompt) - 1 + step, token]))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_loss_is_the_cross_entropy_of_the_answers(
    family: tiny.Family, tmp_path: Path, asked: RankingRequest
) -> None:
    folder = tiny.save_model(tmp_path / family, family=family)
    model = load_model(folder, id=family)
    study = Study(model, [], asked, layers=[0])
    nothing = study.loss({0: torch.zeros_like}, TARGETS)
    assert float(nothing) == pytest.approx(cross_entropy(model), rel=1e-4)
    assert float(study.loss({}, TARGETS)) == pytest.approx(float(nothing), rel=1e-5)
    direction = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(2))

    def push(resid: Tensor, n_prompt: int) -> Tensor:
        edited = resid.clone()
        edited[:, n_prompt - 1 :] += direction
        return edited

    pushed = study.loss({0: lambda resid: direction.expand_as(resid)}, TARGETS)
    assert float(pushed) == pytest.approx(cross_entropy(model, push), rel=1e-4)
    assert abs(float(pushed) - float(nothing)) > 1e-3


def test_the_loss_is_differentiable_in_what_is_written_and_in_nothing_else(
    model: LoadedModel, study: Study
) -> None:
    weight = torch.zeros(tiny.D_MODEL, requires_grad=True)
    scale = torch.ones((), requires_grad=True)

    def loss() -> Tensor:
        write = {
            0: lambda resid: (scale * weight).expand_as(resid),
            LAYER: lambda resid: 0.1 * scale * resid,
        }
        return study.loss(write, TARGETS)

    loss().backward()
    assert weight.grad is not None
    assert scale.grad is not None
    assert weight.grad.norm() > 0
    for at in (0, 17):
        step = torch.zeros(tiny.D_MODEL)
        step[at] = 1e-2
        with torch.no_grad():
            weight += step
            more = float(loss())
            weight -= 2 * step
            less = float(loss())
            weight += step
        assert float(weight.grad[at]) == pytest.approx((more - less) / 2e-2, rel=0.05, abs=1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in model.hf_model.parameters())
    assert all(not block._forward_hooks for block in model.blocks)


def test_a_more_precise_parameter_learns_in_a_bfloat16_model(
    tiny_model_dir: Path, asked: RankingRequest
) -> None:
    model = load_model(tiny_model_dir, id="tiny")
    model.hf_model.bfloat16()
    study = Study(model, [], asked, layers=[0])
    weight = torch.zeros(tiny.D_MODEL, requires_grad=True)
    study.loss({0: lambda resid: weight.expand_as(resid)}, TARGETS).backward()
    assert weight.grad is not None
    assert weight.grad.norm() > 0


def test_a_model_of_mixed_precision_cannot_be_learned_in(
    tiny_model_dir: Path, asked: RankingRequest
) -> None:
    plain = load_model(tiny_model_dir, id="tiny")
    mixed = LoadedModel(
        plain.hf_model, plain.tokenizer, id="tiny", sha256="a", mixed_precision=True
    )
    study = Study(mixed, [], asked, layers=[0])
    with pytest.raises(ModelError, match="mixes two precisions"):
        study.loss({0: torch.zeros_like}, TARGETS)


def test_a_training_goes_on_from_its_latest_checkpoint(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    cache = tiny.MemoryCache()

    def study(**changes: Any) -> Study:
        made = Study(model, [sae], replace(asked, **changes), cache=cache)
        return made.made_by("mine", {"rate": 0.1}, "a" * 64)

    first = study()
    assert first.resume(10) == (0, {})
    for done in (1, 2, 3):
        first.checkpoint(done, 10, weight=torch.full((2,), float(done)), at=torch.tensor(done))
    done, state = study().resume(10)
    assert done == 3
    assert torch.equal(state["weight"], torch.full((2,), 3.0))
    assert state["at"].dtype == torch.long
    assert study().resume(2)[0] == 2  # no more steps than are asked for
    assert study(pairs=asked.pairs[:-1]).resume(10) == (0, {})
    for name, parameters, sha256 in (
        ("other", {"rate": 0.1}, "a" * 64),
        ("mine", {"rate": 0.2}, "a" * 64),
        ("mine", {"rate": 0.1}, "b" * 64),
    ):
        assert study().made_by(name, parameters, sha256).resume(10) == (0, {})


def test_a_very_long_training_keeps_no_more_checkpoints_than_can_be_looked_for(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    cache = tiny.MemoryCache()
    study = Study(model, [sae], asked, cache=cache)
    for done in range(1, 5001):
        study.checkpoint(done, 5000, at=torch.tensor(done))
    assert len(cache.payloads) == 1000
    done, state = study.resume(5000)
    assert done == int(state["at"]) == 5000


def test_a_study_without_a_cache_keeps_no_checkpoint(study: Study) -> None:
    study.checkpoint(3, 10, weight=torch.ones(2))
    assert study.resume(10) == (0, {})


def test_an_edit_holds_latents_or_tensors_kept_by_their_content(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    tensors = Tensors()
    study = Study(model, [sae], asked, layers=[0], tensors=tensors)
    latents = (ChosenLatent(7, 2.0),)
    edit = study.edit(LAYER, latents=latents, method="clamp")
    assert (edit.sae_id, edit.latents, edit.method, edit.share) == (sae.id, latents, "clamp", 0.5)
    vector = torch.arange(tiny.D_MODEL).bfloat16()
    twice = [study.at((0,)).edit(0, vector=vector) for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0].share == 1.0
    assert torch.equal(tensors.get(twice[0].tensors)[VECTOR], vector.float())
    with pytest.raises(
        HookPointError, match="SAE at layer 0, but the SAEs at hand are for layers 1"
    ):
        study.edit(0, latents=latents)


def test_progress_goes_through_and_stops(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    def stop(_done: int, _total: int, _message: str) -> None:
        raise JobCancelled("stopped")

    told: list[str] = []
    study = Study(model, [sae], asked, step=lambda _d, _t, message: told.append(message))
    study.step(1, 2, "mine")
    study.answers(n=1, max_new_tokens=1)
    study.resid(LAYER)
    assert {"mine", "writing", "reading"} <= set(told)
    stopped = Study(model, [sae], asked, step=stop)
    for ask in (
        lambda: stopped.step(1, 2, "mine"),
        lambda: stopped.answers(n=1),
        lambda: stopped.latents(LAYER),
        lambda: stopped.mean_difference(LAYER),
    ):
        with pytest.raises(JobCancelled):
            ask()
    assert all(not block._forward_hooks for block in model.blocks)


def test_studies_that_cannot_be_are_refused(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    with pytest.raises(HookPointError, match="no layer to write after"):
        Study(model, [], asked)
    with pytest.raises(HookPointError, match="after block 2, but the model has blocks 0 to 1"):
        Study(model, [sae], asked, layers=[2])
    with pytest.raises(HookPointError, match="at hand are for layers none"):
        Study(model, [], asked, layers=[0]).latents(0)
    with pytest.raises(PromptPairError, match="no prompt pairs"):
        Study(model, [sae], replace(asked, pairs=())).resid(LAYER)


def test_saes_of_several_layers_are_told_apart(
    model: LoadedModel,
    sae: LoadedSae,
    tiny_model_dir: Path,
    tmp_path: Path,
    asked: RankingRequest,
) -> None:
    folder = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    below = load_sae_folder(folder, id="below", model=model)
    study = Study(model, [below, sae], asked)
    assert study.layers == (0, 1)
    assert [study.sae(layer).id for layer in (0, 1)] == ["below", sae.id]
    assert study.latents(0)[0].values.sum() != study.latents(1)[0].values.sum()
    for layer in (0, 1):
        assert study.ranking(layer).latents[0].index == tiny.PLANTED_LATENT
