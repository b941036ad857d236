"""Sources that are trained by the language model's loss: gated latents and their kin."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from saif_core.errors import JobCancelled
from saif_core.finding.learning import learn
from saif_core.finding.sources import gated_latents as gated
from saif_core.finding.sources.reft_r1 import _Readings
from saif_core.finding.study import Study, Target
from saif_core.finding.training import attribute, gate, train
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.as_json import from_json, to_json
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling, Schedule
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import VECTOR
from saif_core.steering.tensors import Tensors
from saif_core.writing.run import generate
from tests import tiny

LAYER = 1
SMALL: dict[str, Any] = {"contents": 6, "tokens": 4, "steps": 12}


@pytest.fixture
def asked(sae: LoadedSae) -> RankingRequest:
    return tiny.judged_request(sae.id)


@pytest.fixture
def study(model: LoadedModel, sae: LoadedSae, asked: RankingRequest, tensors: Tensors) -> Study:
    return Study(model, [sae], asked, tensors=tensors)


def pushing(tensors: Mapping[str, Tensor]) -> Mapping[int, partial[Tensor]]:
    return {LAYER: partial(lambda resid, push: push.expand_as(resid), push=tensors["push"])}


def start(model: LoadedModel) -> dict[str, Tensor]:
    return {"push": torch.zeros(model.d_model)}


def test_training_lowers_the_loss_and_finds_what_was_planted(
    study: Study, model: LoadedModel
) -> None:
    targets = study.targets(n=6, max_new_tokens=3)
    found = train(study, start(model), pushing, targets, steps=30, rates={"push": 0.1})
    assert float(found.losses[-5:].mean()) < 0.5 * float(found.losses[:5].mean())
    push = torch.nn.functional.normalize(found.tensors["push"], dim=0)
    assert float(push @ torch.nn.functional.normalize(tiny.plant_direction(), dim=0)) > 0.3


def test_a_tensor_without_a_rate_stays_as_it_is(study: Study, model: LoadedModel) -> None:
    targets = study.targets(n=2, max_new_tokens=2)
    both = {**start(model), "kept": torch.ones(2)}
    found = train(study, both, pushing, targets, steps=2, rates={"push": 0.1, "kept": 0.0})
    assert torch.equal(found.tensors["kept"], torch.ones(2))
    assert bool(found.tensors["push"].any())


def test_training_that_was_stopped_goes_on_to_the_same_end(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    cache = tiny.MemoryCache()

    def stop(done: int, _total: int, message: str) -> None:
        if message.startswith("training") and done == 7:
            raise JobCancelled("Stopped.")

    def trained(**options: Any) -> Tensor:
        study = Study(model, [sae], asked, **options)
        made = learn(study, "gated_latents", {"k": 4, **SMALL})
        return study.tensors.get(made.edits[0].tensors)["gate_weight"]

    whole = trained()
    with pytest.raises(JobCancelled):
        trained(cache=cache, step=stop)
    steps: list[str] = []

    def note(done: int, _total: int, message: str) -> None:
        steps.append(f"{done} {message}")

    again = trained(cache=cache, step=note)
    assert torch.equal(again, whole)
    begun = next(step for step in steps if "training" in step)
    assert begun.startswith("8 ")


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("all"), Schedule("prompt-ends")])
def test_the_gradient_of_a_gate_is_that_of_finite_differences(
    study: Study, model: LoadedModel, sae: LoadedSae, schedule: Schedule
) -> None:
    targets = study.targets(n=4, max_new_tokens=3)
    generator = torch.Generator().manual_seed(1)
    weight = (0.05 * torch.randn(3, model.d_model, generator=generator)).requires_grad_()
    bias = torch.full((3,), 0.5, requires_grad=True)
    directions = 2 * sae.W_dec[[tiny.PLANTED_LATENT, 1, 2]].float()

    def loss() -> Tensor:
        tensors = {gated.WEIGHT: weight, gated.BIAS: bias}
        delta = partial(gated._delta, tensors=tensors, directions=directions, sae=sae)
        return study.loss({LAYER: delta}, targets, schedule=schedule)

    loss().backward()  # type: ignore[no-untyped-call]
    for tensor, at in ((weight, (0, 3)), (weight, (2, 9)), (bias, (1,))):
        assert tensor.grad is not None
        with torch.no_grad():
            tensor[at] += 1e-2
            more = float(loss())
            tensor[at] -= 2e-2
            less = float(loss())
            tensor[at] += 1e-2
        assert float(tensor.grad[at]) == pytest.approx((more - less) / 2e-2, rel=0.05, abs=2e-4)


def test_prompts_that_are_read_once_give_the_loss_of_whole_sequences(
    study: Study,
) -> None:
    # The prompts differ in length, so some stand behind padding.
    targets = [Target(tuple(range(5, 5 + n)), (9, 10, 11)[:m]) for n, m in ((2, 1), (7, 3), (4, 2))]
    push = {LAYER: lambda resid: tiny.plant_direction().expand_as(resid)}
    kept = float(study.loss(push, targets))
    # A prompt of one token leaves nothing to be kept, so all of them are run whole.
    one = Target((3,), (4, 5))
    both = float(study.loss(push, [*targets, one]))
    alone = float(study.loss(push, [one]))
    assert 6 * kept + 2 * alone == pytest.approx(8 * both, rel=1e-5)


def test_the_planted_latent_has_the_largest_effect(study: Study, sae: LoadedSae) -> None:
    targets = study.targets(n=6, max_new_tokens=3)
    scores = attribute(study, LAYER, targets, batch=4)
    assert scores.shape == (sae.d_sae,)
    assert int(scores.argmax()) == tiny.PLANTED_LATENT
    assert torch.allclose(attribute(study, LAYER, targets, batch=1), scores, rtol=1e-3, atol=1e-6)


def test_a_gate_is_closed_below_zero_whatever_the_size_of_the_residual_stream() -> None:
    resid = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(4)
    opened = gate(resid, weight, bias)
    assert opened.shape == (2, 3, 4)
    assert torch.allclose(gate(100 * resid, weight, bias), opened, atol=1e-4)
    unit = resid / resid.norm(dim=-1, keepdim=True) * 8**0.5
    assert torch.allclose(opened, (unit @ weight.T).clamp(min=0), atol=1e-5)
    assert not bool(gate(resid, weight, torch.full((4,), -1e3)).any())


def written(
    model: LoadedModel, sae: LoadedSae, tensors: Tensors, edits: tuple[Edit, ...], **arm: Any
) -> list[tuple[int, ...]]:
    arms = (UNSTEERED, Arm("steered", edits=edits, **arm))
    asked = GenerationRequest(("one two", "three"), arms, Sampling(max_new_tokens=6))
    made = generate(model, {sae.id: sae}, asked, tensors=tensors)
    return [g.token_ids for g in made.generations]


def test_closed_gates_and_strength_zero_are_the_unsteered_model(
    study: Study, model: LoadedModel, sae: LoadedSae, tensors: Tensors
) -> None:
    (edit,) = learn(study, "gated_latents", {"k": 4, **SMALL}).edits
    plain, steered, *_ = written(model, sae, tensors, (edit,), strength=3.0)
    assert steered != plain
    first = written(model, sae, tensors, (edit,), strength=0.0)
    assert first[0] == first[1]
    assert first[2] == first[3]
    found = tensors.get(edit.tensors)
    never = {gated.BIAS: torch.full((4,), -1e3), gated.WEIGHT: torch.zeros(4, model.d_model)}
    closed = replace(edit, tensors=tensors.put({**found, **never}))
    kept_shut = written(model, sae, tensors, (closed,), strength=3.0)
    assert kept_shut[0] == kept_shut[1] == plain
    assert kept_shut[2] == kept_shut[3]


def test_a_gated_arm_is_replayed_from_its_record(
    study: Study, model: LoadedModel, sae: LoadedSae, tensors: Tensors
) -> None:
    made = learn(study, "gated_latents", {"k": 4, **SMALL})
    again = tuple(from_json(Edit, to_json(edit)) for edit in made.edits)
    assert written(model, sae, tensors, again) == written(model, sae, tensors, made.edits)
    assert [latent.coefficient > 0 for latent in made.edits[0].latents] == [True] * 4


def test_each_token_tells_how_far_the_gates_were_open(
    study: Study, model: LoadedModel, sae: LoadedSae, tensors: Tensors
) -> None:
    (edit,) = learn(study, "gated_latents", {"k": 4, **SMALL}).edits
    arms = (
        UNSTEERED,
        Arm("gated", edits=(edit,), strength=2.0),
        Arm("random", "random", edits=(edit,), strength=2.0),
    )
    asked = GenerationRequest(("one two",), arms, Sampling(max_new_tokens=5), divergence=True)
    made = generate(model, {sae.id: sae}, asked, tensors=tensors).generations
    plain, gated_text, random = made
    assert all(change.gates == () for text in (plain, random) for change in text.changes)
    assert all(len(change.gates) == 4 for change in gated_text.changes)
    # What was open as a token was written is read at the token before it.
    prompt = model.encode_prompt("one two", chat=True)
    seen: list[Tensor] = []
    found = tensors.get(edit.tensors)

    def note(resid: Tensor) -> Tensor:
        seen.append(gate(resid, found[gated.WEIGHT], found[gated.BIAS]))
        delta = gated._delta(
            resid,
            found,
            torch.tensor([x.coefficient for x in edit.latents])[:, None]
            * sae.W_dec[[x.index for x in edit.latents]],
            sae,
        )
        where = torch.arange(resid.shape[1])[None, :, None] >= len(prompt) - 1
        return resid + 2.0 * torch.where(where, delta, 0.0)

    with edit_resid(model.blocks[LAYER], note):
        model.logits(torch.tensor([[*prompt, *gated_text.token_ids[:-1]]]))
    expected = seen[0][0, len(prompt) - 1 :]
    told = torch.tensor([change.gates for change in gated_text.changes])
    assert torch.allclose(told, expected, atol=2e-3)


def test_controls_are_trained_alike(study: Study, tensors: Tensors) -> None:
    def made(**parameters: Any) -> tuple[list[int], Mapping[str, Tensor]]:
        (edit,) = learn(study, "gated_latents", {"k": 4, **SMALL, **parameters}).edits
        return [latent.index for latent in edit.latents], tensors.get(edit.tensors)

    own, _ = made()
    assert tiny.PLANTED_LATENT in own
    ranked, _ = made(chosen="ranking")
    assert ranked[0] == tiny.PLANTED_LATENT
    drawn, _ = made(chosen="random")
    assert len(set(drawn)) == 4
    assert drawn != own
    _, constant = made(strengths="constant")
    assert not bool(constant[gated.WEIGHT].any())
    assert bool((constant[gated.BIAS] != 1).any())


def test_what_steers_on_top_of_prompting_is_learned_there(
    study: Study, model: LoadedModel, tensors: Tensors
) -> None:
    bare = study.targets(n=4, max_new_tokens=4)
    told = study.targets(n=4, max_new_tokens=4, told=True)
    assert [one.answer for one in told] == [one.answer for one in bare]
    pairs = {tuple(model.encode_prompt(p.positive, chat=True)) for p in study.pairs}
    assert {one.prompt for one in told} <= pairs
    assert not {one.prompt for one in bare} & pairs
    (edit,) = learn(study, "gated_latents", {"k": 4, "prompts": "instructed", **SMALL}).edits
    (other,) = learn(study, "gated_latents", {"k": 4, **SMALL}).edits
    weights = [tensors.get(one.tensors)[gated.WEIGHT] for one in (edit, other)]
    assert not torch.equal(*weights)


def test_answers_are_shuffled_over_all_contents() -> None:
    targets = [Target((n,), (n, n)) for n in range(4)]
    shuffled = gated._shuffled(targets)
    assert [target.prompt for target in shuffled] == [(n,) for n in range(4)]
    assert sorted(target.answer for target in shuffled) == [(n, n) for n in range(4)]
    assert all(target.answer[0] != target.prompt[0] for target in shuffled)


def test_a_prompt_vector_is_added_to_the_ends_of_the_prompt_alone(
    study: Study, model: LoadedModel, sae: LoadedSae, tensors: Tensors
) -> None:
    asked = {"prompt_first": 1, "prompt_last": 2, **SMALL}
    (edit,) = learn(study, "prompt_vector", asked).edits
    at_ends = Schedule("prompt-ends", prompt_first=1, prompt_last=2)
    assert edit.schedule == at_ends
    own = written(model, sae, tensors, (edit,), strength=2.0)
    assert own == written(
        model, sae, tensors, (replace(edit, schedule=None),), strength=2.0, schedule=at_ends
    )
    assert own != written(model, sae, tensors, (replace(edit, schedule=None),), strength=2.0)
    assert VECTOR in tensors.get(edit.tensors)


def test_reft_writes_as_much_as_the_largest_readings_of_a_text() -> None:
    readings = _Readings(top=2)
    # The third token of the second text is not steered, so it is given as zero.
    resid = torch.tensor([[[3.0, 1], [1, 1], [2, 1]], [[4.0, 1], [-5, 1], [0, 0]]])
    added = readings.write(resid, direction=torch.tensor([7.0, 0]))
    assert torch.allclose(added, torch.tensor([2.5, 2.0])[:, None, None] * torch.tensor([1.0, 0]))
    assert readings.sizes.tolist() == [2.5, 2.0]
    assert float(readings.outside) == 0.5
    assert _Readings(top=9).write(resid, torch.tensor([7.0, 0])).shape == resid.shape


def test_reft_finds_the_planted_direction_and_a_strength_that_writes_it(
    study: Study, model: LoadedModel, sae: LoadedSae, tensors: Tensors
) -> None:
    (edit,) = learn(study, "reft_r1", {**SMALL, "steps": 30}).edits
    assert not edit.latents
    vector = tensors.get(edit.tensors)[VECTOR]
    planted = torch.nn.functional.normalize(tiny.plant_direction(), dim=0)
    assert float(torch.nn.functional.normalize(vector, dim=0) @ planted) > 0.3
    texts = written(model, sae, tensors, (edit,), strength=2.0)
    assert texts != written(model, sae, tensors, (edit,), strength=0.0)


def test_tokens_that_are_not_steered_are_not_seen(study: Study) -> None:
    seen: list[Tensor] = []

    def look(resid: Tensor) -> Tensor:
        seen.append(resid)
        return torch.zeros_like(resid)

    targets = [Target((5, 6, 7), (8, 9, 10)), Target((5, 6, 7), (8,))]
    study.loss({LAYER: look}, targets)
    (resid,) = seen
    assert resid.shape[:2] == (2, 4)
    assert resid.abs().sum(-1).gt(0).tolist() == [
        [True, True, True, True],
        [True, True, False, False],
    ]
