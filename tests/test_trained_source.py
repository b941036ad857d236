"""A source that learns one number, from a file of the user's own: it learns, stops and goes on."""

from pathlib import Path

import pytest
import torch

from saif_core.errors import JobCancelled, SteeringError
from saif_core.finding.learning import Learned, learn
from saif_core.finding.study import Study
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import Step
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest, Sampling
from saif_core.steering.tensors import Tensors
from saif_core.writing.run import generate
from tests import tiny
from tests.plugins import take_up

STEPS = 12
NUDGE = """
    import torch


    def nudge(study, *, steps: int = 12, rate: float = 2.0):
        '''The mean difference, as strongly as makes answers that follow likeliest.

        Args:
            steps: of gradient descent.
            rate: what a gradient is multiplied by.
        '''
        (layer,) = study.layers
        targets = study.targets(n=4, max_new_tokens=3)
        direction = study.mean_difference(layer)
        direction = direction / direction.norm()
        done, kept = study.resume(steps)
        weight = kept.get("weight", torch.zeros(())).requires_grad_()
        for at in range(done + 1, steps + 1):
            loss = study.loss({layer: lambda resid: pushed(resid, weight, direction)}, targets)
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - rate * gradient).detach().requires_grad_()
            study.checkpoint(at, steps, weight=weight)
            study.step(at, steps, f"loss {float(loss.detach()):.3f}")
        yield study.edit(layer, method="nudge", weight=weight, direction=direction)


    def write(resid, target, sae):
        return pushed(resid, target.tensors["weight"], target.tensors["direction"])


    def pushed(resid, weight, direction):
        return (weight * direction).to(resid).expand_as(resid)
"""


@pytest.fixture(autouse=True)
def nudge(plugin_folder: Path) -> None:
    take_up(plugin_folder, sources__nudge=NUDGE)


@pytest.fixture
def asked() -> RankingRequest:
    return tiny.judged_request("")


def trained(
    model: LoadedModel,
    asked: RankingRequest,
    tensors: Tensors,
    *,
    cache: tiny.MemoryCache | None = None,
    step: Step | None = None,
) -> Learned:
    study = Study(model, [], asked, layers=[0], cache=cache, tensors=tensors, step=step)
    return learn(study, "nudge", {"steps": STEPS}, cache=cache)


def losses(told: list[str]) -> list[float]:
    return [float(message.split()[1]) for message in told if message.startswith("loss")]


def test_it_learns_what_makes_the_planted_token_likelier(
    model: LoadedModel, asked: RankingRequest
) -> None:
    told: list[str] = []
    tensors = Tensors()
    made = trained(model, asked, tensors, step=lambda _d, _t, message: told.append(message))
    (edit,) = made.edits
    found = losses(told)
    assert len(found) == STEPS
    assert found[-1] < 0.5 * found[0]
    assert float(tensors.get(edit.tensors)["weight"]) > 1
    assert (edit.latents, edit.sae_id, edit.method) == ((), "", "nudge")
    held_out = tuple(tiny.contents(8, seed=9)[-2:])
    arms = (UNSTEERED, Arm("steered", edits=made.edits, origin=made.origin))
    request = GenerationRequest(held_out, arms, Sampling(max_new_tokens=3), divergence=True)
    result = generate(model, {}, request, tensors=tensors)
    for text in result.generations:
        if text.arm == "unsteered":
            assert "oui" not in text.text
        else:
            assert text.text.split() == ["oui"] * 3
            assert all(change.change > 1 for change in text.changes)
    assert result.recipe.plugin_sha256s == {"nudge": made.origin.file_sha256}
    assert not any(p.requires_grad or p.grad is not None for p in model.hf_model.parameters())


@pytest.mark.parametrize("n_done", [1, 5, STEPS])
def test_a_training_that_was_stopped_goes_on_to_the_same_result(
    model: LoadedModel, asked: RankingRequest, n_done: int
) -> None:
    whole = trained(model, asked, tensors := Tensors())
    cache = tiny.MemoryCache()

    def stop(done: int, total: int, message: str) -> None:
        if message.startswith("loss") and done == n_done:
            assert total == STEPS
            raise JobCancelled("stopped")

    with pytest.raises(JobCancelled):
        trained(model, asked, Tensors(), cache=cache, step=stop)
    told: list[str] = []
    resumed = trained(
        model,
        asked,
        again := Tensors(),
        cache=cache,
        step=lambda _d, _t, message: told.append(message),
    )
    assert len(losses(told)) == STEPS - n_done
    assert resumed == whole
    sha256 = whole.edits[0].tensors
    for name, tensor in tensors.get(sha256).items():
        assert torch.equal(again.get(sha256)[name], tensor)


def test_a_model_that_does_not_follow_cannot_be_learned_from(
    model: LoadedModel, asked: RankingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "answers", lambda *_args, **_options: [])
    with pytest.raises(SteeringError, match="nothing to learn from"):
        trained(model, asked, Tensors())
