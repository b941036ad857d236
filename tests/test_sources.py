"""The contract of every source and steering method, and of every selector on a model.

Nothing is listed by hand: a new plug-in is tried here as soon as its file is there. Evaluators,
and selectors on numbers alone, are tried in the same way in test_evaluators and
test_latent_selectors.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.finding.learning import Learned, learn
from saif_core.finding.study import Study
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.as_json import from_json, to_json
from saif_core.records.prompts import PromptPair
from saif_core.records.ranking import ChosenLatent, RankingRequest, ReadPosition
from saif_core.records.steering import UNSTEERED, Arm, Edit, Origin, Sampling
from saif_core.registry import SELECTORS, SOURCES, STEERING_METHODS
from saif_core.saes.loaded_sae import LoadedSae, written_directions
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Delta, add_deltas
from saif_core.steering.target import VECTOR, SteeringTarget, build_target
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode
from tests import tiny
from tests.contracts import parameters_of, planted_resid
from tests.plugins import OWN_WRITE, take_up

LAYER = 1


@pytest.fixture
def asked(sae: LoadedSae) -> RankingRequest:
    return tiny.judged_request(sae.id)


@pytest.fixture
def study(model: LoadedModel, sae: LoadedSae, asked: RankingRequest, tensors: Tensors) -> Study:
    return Study(model, [sae], asked, tensors=tensors)


def learned(study: Study, name: str, **options: Any) -> Learned:
    return learn(study, name, parameters_of(SOURCES.get(name), study.tensors), **options)


def deltas(builder: ArmBuilder, edits: tuple[Edit, ...]) -> list[Delta]:
    return [one.delta for one in builder.write(Arm("a", edits=edits)).steering]


def check_delta(delta: Delta) -> None:
    """What is added has shape, dtype and device of what it is added to, which stays as it is."""
    for dtype in (torch.float32, torch.bfloat16):
        resid = planted_resid(dtype=dtype)
        before = resid.clone()
        added = delta(resid)
        assert (added.shape, added.dtype, added.device) == (resid.shape, dtype, resid.device)
        assert bool(added.isfinite().all())
        assert torch.equal(resid, before)
        still = add_deltas(resid, [(delta, torch.zeros(2, 1, 1), torch.tensor(True))])
        assert torch.equal(still, before)


def check_source(name: str, study: Study, builder: ArmBuilder, model: LoadedModel) -> None:
    """A source's edits write something, survive JSON, write the same then, and change texts."""
    made = learned(study, name)
    assert made.edits
    for edit in made.edits:
        assert edit.layer in study.layers
        assert edit.writes_something
    said = json.loads(json.dumps([to_json(edit) for edit in made.edits]))
    replayed = tuple(from_json(Edit, data) for data in said)
    assert replayed == made.edits
    resid = planted_resid()
    sizes = []
    for delta, again in zip(deltas(builder, made.edits), deltas(builder, replayed), strict=True):
        check_delta(delta)
        assert torch.equal(delta(resid), again(resid))
        sizes.append(float(delta(resid).norm()))
    assert max(sizes) > 0
    prompt = builder.prompt(UNSTEERED, "one two", Sampling())
    arms = [Arm(str(strength), edits=made.edits, strength=strength) for strength in (0.0, 4.0)]
    plain, still, steered = decode(
        model,
        [RowRequest(prompt, 4, steering=builder.write(arm).steering) for arm in (UNSTEERED, *arms)],
    )
    assert still.token_ids == plain.token_ids
    assert still.n_steered == 0
    assert steered.token_ids != plain.token_ids


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_keeps_its_contract(
    name: str, study: Study, builder: ArmBuilder, model: LoadedModel
) -> None:
    check_source(name, study, builder, model)


def test_a_source_that_writes_its_edits_itself_keeps_it_too(
    plugin_folder: Path, study: Study, builder: ArmBuilder, model: LoadedModel, tensors: Tensors
) -> None:
    take_up(plugin_folder, sources__swell=OWN_WRITE)
    check_source("swell", study, builder, model)
    (edit,) = learned(study, "swell").edits
    resid = planted_resid()
    push = tensors.get(edit.tensors)["push"]
    torch.testing.assert_close(
        deltas(builder, (edit,))[0](resid), push * resid.norm(dim=-1, keepdim=True)
    )


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_makes_the_same_again_from_its_origin(
    name: str, model: LoadedModel, sae: LoadedSae, asked: RankingRequest, tensors: Tensors
) -> None:
    made = learned(Study(model, [sae], asked, tensors=tensors), name)
    origin = from_json(Origin, json.loads(json.dumps(to_json(made.origin))))
    assert origin == made.origin
    assert origin.file_sha256 == SOURCES.get(name).file_sha256 != ""
    assert set(origin.parameters) == {one.name for one in SOURCES.get(name).parameters}
    study = Study(model, [sae], asked, tensors=tensors)
    assert learn(study, origin.source, origin.parameters) == made


@pytest.mark.parametrize("name", SOURCES.names())
def test_what_a_source_made_is_kept_with_its_tensors(
    name: str,
    model: LoadedModel,
    sae: LoadedSae,
    asked: RankingRequest,
    tensors: Tensors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tiny.MemoryCache()
    first = learned(Study(model, [sae], asked, tensors=tensors), name, cache=cache)
    ran: list[str] = []
    bind = SOURCES.bind

    def watched(source: str, parameters: Any) -> Any:
        ran.append(source)
        return bind(source, parameters)

    monkeypatch.setattr(SOURCES, "bind", watched)
    again = learned(Study(model, [sae], asked, tensors=tensors), name, cache=cache)
    assert again == first
    assert not ran
    # Where the tensors are gone, they are made anew.
    elsewhere = Study(model, [sae], asked, tensors=Tensors())
    assert learned(elsewhere, name, cache=cache) == first
    given = first.origin.parameters.values()
    assert bool(ran) == any(edit.tensors and edit.tensors not in given for edit in first.edits)


@pytest.mark.parametrize("method", STEERING_METHODS.names())
@pytest.mark.parametrize("name", SOURCES.names())
def test_every_method_writes_what_every_source_made_or_says_why_not(
    name: str, method: str, study: Study, builder: ArmBuilder
) -> None:
    registered = STEERING_METHODS.get(method)
    parameters = parameters_of(registered, study.tensors)
    made = learned(study, name, method=method, method_parameters=parameters)
    assert {edit.method for edit in made.edits} == {method}
    assert [replace(e, method="", method_parameters={}) for e in made.edits] == [
        replace(e, method="", method_parameters={}) for e in learned(study, name).edits
    ]
    if registered.needs_sae and not all(edit.latents for edit in made.edits):
        with pytest.raises(SteeringError, match="needs latents, but a vector was given"):
            deltas(builder, made.edits)
        return
    for delta in deltas(builder, made.edits):
        check_delta(delta)
        assert bool(delta(planted_resid()).abs().max() > 0)


@pytest.mark.parametrize("name", STEERING_METHODS.names())
def test_a_method_keeps_its_contract_with_latents_and_with_a_vector(
    name: str, sae: LoadedSae, tensors: Tensors
) -> None:
    registered = STEERING_METHODS.get(name)
    bound: Any = STEERING_METHODS.bind(name, parameters_of(registered, tensors))
    latents = (ChosenLatent(tiny.PLANTED_LATENT, 4.0), ChosenLatent(3, -1.5))
    targets: list[tuple[SteeringTarget, LoadedSae | None]] = [
        (build_target(Edit(LAYER, sae_id=sae.id, latents=latents), sae, {}, tiny.D_MODEL), sae)
    ]
    if not registered.needs_sae:
        vector = {VECTOR: 4 * tiny.plant_direction()}
        targets.append((build_target(Edit(0, tensors="a"), None, vector, tiny.D_MODEL), None))
    for target, owner in targets:
        before = copy.deepcopy(target)

        def delta(
            resid: Tensor, target: SteeringTarget = target, owner: LoadedSae | None = owner
        ) -> Tensor:
            added: Tensor = bound(resid, target, owner)
            return added

        check_delta(delta)
        assert bool(delta(planted_resid()).abs().max() > 0)
        # What is asked of one position is not moved by the others.
        alone = delta(planted_resid()[:1, 2:3])
        torch.testing.assert_close(alone, delta(planted_resid())[:1, 2:3], rtol=1e-4, atol=1e-5)
        assert torch.equal(target.direction, before.direction)
        assert torch.equal(target.coefficients, before.coefficients)


@pytest.mark.parametrize("name", ["saif", "one_latent", "denoised"])
def test_a_planted_latent_is_found(name: str, study: Study) -> None:
    (edit,) = learned(study, name).edits
    fires = study.latents(LAYER)[0].mean()[tiny.PLANTED_LATENT]
    assert edit.latents[0].index == tiny.PLANTED_LATENT
    assert edit.latents[0].coefficient == pytest.approx(fires, rel=1e-4)
    assert edit.sae_id == study.sae(LAYER).id


def test_a_planted_direction_is_found(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest, tensors: Tensors
) -> None:
    study = Study(model, [sae], asked, layers=[0], tensors=tensors)
    edits = learned(study, "mean_difference").edits
    assert [edit.layer for edit in edits] == [LAYER, 0]
    assert sum(edit.share for edit in edits) == 1
    for edit in edits:
        vector = tensors.get(edit.tensors)[VECTOR]
        assert int((sae.W_dec @ vector).argmax()) == tiny.PLANTED_LATENT
        cosine = torch.cosine_similarity(vector, tiny.plant_direction(), dim=0)
        assert float(cosine) > 0.6
        torch.testing.assert_close(vector, study.mean_difference(edit.layer))


def permuted(sae: LoadedSae, order: Tensor) -> LoadedSae:
    """The same SAE with its latents in another order."""
    again = copy.copy(sae)
    again.sae = copy.deepcopy(sae.sae)
    with torch.no_grad():
        again.sae.W_enc.copy_(sae.sae.W_enc[:, order])
        again.sae.W_dec.copy_(sae.sae.W_dec[order])
        again.sae.b_enc.copy_(sae.sae.b_enc[order])
    again.W_dec = written_directions(again.sae)
    again.sha256 = "c" * 64
    return again


def scores_of(study: Study, name: str) -> np.ndarray:
    ranking = study.ranking(LAYER, name, **parameters_of(SELECTORS.get(name), study.tensors))
    scores = np.full(tiny.D_SAE, np.nan)
    for latent in ranking.latents:
        scores[latent.index] = latent.score
    return scores


@pytest.mark.parametrize("read", ["last-token", "response"])
@pytest.mark.parametrize("name", SELECTORS.names())
def test_a_selector_finds_the_planted_latent_whatever_its_index(
    name: str, read: ReadPosition, model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    request = replace(asked, read=read, response_tokens=3)
    scores = scores_of(Study(model, [sae], request), name)
    assert bool(np.isfinite(scores).all())
    assert int(scores.argmax()) == tiny.PLANTED_LATENT
    order = torch.randperm(tiny.D_SAE, generator=torch.Generator().manual_seed(3))
    other = scores_of(Study(model, [permuted(sae, order)], request), name)
    np.testing.assert_allclose(other, scores[order.numpy()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SELECTORS.names())
def test_an_instruction_that_does_nothing_is_scored_without_nan(
    name: str, model: LoadedModel, sae: LoadedSae, asked: RankingRequest
) -> None:
    same = tuple(PromptPair(text, text, text) for text in tiny.contents(3))
    scores = scores_of(Study(model, [sae], replace(asked, pairs=same)), name)
    assert bool(np.isfinite(scores).all())


@pytest.mark.parametrize(
    "source",
    [
        "def hollow(study):\n    return []\n",
        "def hollow(study):\n    yield from ()\n",
        "def hollow(study):\n    yield study.edit(1)\n",
    ],
)
def test_a_source_that_makes_nothing_is_an_error(
    source: str, plugin_folder: Path, study: Study
) -> None:
    take_up(plugin_folder, sources__hollow=source)
    cache = tiny.MemoryCache()
    for _ in range(2):
        with pytest.raises(SteeringError, match="'hollow' made nothing to steer with"):
            learn(study, "hollow", {}, cache=cache)
    assert not cache.payloads


@pytest.mark.parametrize("name", ["basket", "vector"])
def test_what_a_person_did_not_give_is_asked_for(name: str, study: Study) -> None:
    with pytest.raises(SteeringError, match=r"(choose at least one|No vector was given)"):
        learn(study, name, {})


def test_a_basket_is_for_one_layer_and_a_vector_for_any(
    model: LoadedModel, sae: LoadedSae, asked: RankingRequest, tensors: Tensors
) -> None:
    study = Study(model, [sae], asked, layers=[0], tensors=tensors)
    with pytest.raises(SteeringError, match="latents of one SAE, but 2 layers"):
        learned(study, "basket")
    assert [edit.layer for edit in learned(study, "vector").edits] == [LAYER, 0]
    with pytest.raises(SteeringError, match="no tensor called 'vector'"):
        learn(study, "vector", {"tensors": tensors.put({"push": torch.ones(3)})})
