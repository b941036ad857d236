"""Arms: what each adds to the residual stream, its controls, and what that did to each token."""

from dataclasses import replace

import pytest
import torch

from saif_core.errors import HookPointError, SteeringError
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.prompts import Turn
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Sampling,
    Schedule,
    SteeringScope,
)
from saif_core.registry import STEERING_METHODS
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Steering, add_deltas
from saif_core.steering.target import SteeringTarget, build_target
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode
from saif_core.writing.divergence import read_changes
from saif_core.writing.run import generate
from tests import tiny

LATENTS = (ChosenLatent(tiny.PLANTED_LATENT, 4.0), ChosenLatent(3, -1.5))
PROMPT = "The cat sees the old house."


@pytest.fixture
def edit(sae: LoadedSae) -> Edit:
    return Edit(sae.layer, sae_id=sae.id, latents=LATENTS)


def target_of(sae: LoadedSae, *latents: ChosenLatent) -> SteeringTarget:
    return build_target(
        Edit(sae.layer, sae_id=sae.id, latents=latents), sae, {}, sae.W_dec.shape[1]
    )


@pytest.fixture
def resid(model: LoadedModel) -> torch.Tensor:
    ids = torch.tensor([model.encode_prompt(f"{PROMPT} {tiny.PLANTED_WORD} dog", chat=False)])
    return model.run_sequences(ids, [ids.shape[1]], [1])[1]


def test_clamp_sets_the_chosen_latents_and_ablate_takes_them_out(
    sae: LoadedSae, resid: torch.Tensor
) -> None:
    target = target_of(sae, ChosenLatent(tiny.PLANTED_LATENT, 2.5))
    fires = sae.encode(resid[0])[:, tiny.PLANTED_LATENT]
    assert fires[0] == 0
    assert fires[-1] > 0
    unit = sae.W_dec[tiny.PLANTED_LATENT]
    clamped = STEERING_METHODS.get("clamp").function(resid, target, sae)[0]
    ablated = STEERING_METHODS.get("ablate").function(resid, target, sae)[0]
    torch.testing.assert_close(clamped, (2.5 - fires)[:, None] * unit)
    torch.testing.assert_close(ablated, -fires[:, None] * unit)
    assert not ablated[0].any()


@pytest.mark.parametrize("name", ["addition", "clamp", "ablate"])
def test_methods_keep_dtype_and_leave_their_input(
    sae: LoadedSae, resid: torch.Tensor, name: str
) -> None:
    before = resid.clone()
    method = STEERING_METHODS.bind(name, {})
    added = method(resid, target_of(sae, *LATENTS), sae)
    assert added.shape == resid.shape
    assert torch.equal(resid, before)
    assert method(resid.bfloat16(), target_of(sae, *LATENTS), sae).dtype == torch.bfloat16


def test_a_random_control_has_equal_norm_and_other_latents(
    builder: ArmBuilder, tensors: Tensors, edit: Edit, resid: torch.Tensor
) -> None:
    steered = builder.write(Arm("a", edits=(edit,))).steering[0].delta(resid)
    drawn = [
        builder.write(Arm("r", "random", (edit,), seed=seed)).steering[0].delta(resid)
        for seed in (0, 0, 1)
    ]
    for control in drawn:
        torch.testing.assert_close(control.norm(), steered.norm())
        cosine = torch.cosine_similarity(control.flatten(), steered.flatten(), dim=0)
        assert abs(float(cosine)) < 0.8
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    vector = Edit(0, tensors=tensors.put({"vector": torch.arange(tiny.D_MODEL)}))
    control = builder.write(Arm("r", "random", (vector,))).steering[0].delta(resid)[0, 0]
    torch.testing.assert_close(control.norm(), torch.arange(tiny.D_MODEL).float().norm())


def test_a_flipped_control_has_the_opposite_strength(builder: ArmBuilder, edit: Edit) -> None:
    steering = builder.write(Arm("f", "flipped", (edit,), strength=0.5)).steering[0]
    assert steering.strength_at(0) == -0.5


def test_a_logit_bias_is_what_the_vector_adds_through_the_final_norm(
    builder: ArmBuilder, model: LoadedModel, sae: LoadedSae, edit: Edit
) -> None:
    arm = Arm("b", "logit-bias", (edit,), strength=2.0)
    steering, bias, forced = builder.write(arm)
    assert bias is not None
    assert (steering, forced) == ((), ())
    direction = target_of(sae, *LATENTS).direction
    head = model.hf_model.get_output_embeddings().weight
    prompt = model.encode_prompt("In my experience,", chat=True)
    rms = model.resid_at_end(prompt, model.n_layers - 1).pow(2).mean().sqrt()
    scale = model.final_norm.get_parameter("weight")
    torch.testing.assert_close(bias, 2.0 * (head @ (direction * scale)) / rms)
    prompt_ids = tuple(model.encode_prompt(PROMPT, chat=True))
    plain, biased = decode(
        model, [RowRequest(prompt_ids, 1), RowRequest(prompt_ids, 1, logit_bias=bias)]
    )
    logits = model.logits(torch.tensor([prompt_ids]))[0, -1]
    assert plain.token_ids == [int(logits.argmax())]
    assert biased.token_ids == [int((logits + bias).argmax())]


def test_arms_that_cannot_be_are_refused(
    builder: ArmBuilder, tensors: Tensors, sae: LoadedSae
) -> None:
    vector = tensors.put({"vector": torch.ones(tiny.D_MODEL)})
    with pytest.raises(SteeringError, match="nothing to steer with"):
        builder.write(Arm("empty"))
    with pytest.raises(SteeringError, match="has no instruction"):
        builder.prompt(Arm("p", "prompted"), "text", Sampling())
    with pytest.raises(HookPointError, match="blocks 0 to 1"):
        builder.write(Arm("far", edits=(Edit(9, tensors=vector),)))
    short = tensors.put({"vector": torch.ones(1)})
    with pytest.raises(SteeringError, match="32 dimensions"):
        builder.write(Arm("short", edits=(Edit(0, tensors=short),)))
    clamped = Edit(0, "clamp", tensors=vector)
    with pytest.raises(SteeringError, match="needs latents"):
        builder.write(Arm("c", edits=(clamped,)))
    elsewhere = Edit(0, sae_id=sae.id, latents=LATENTS)
    with pytest.raises(HookPointError, match="reads and writes after block 1"):
        builder.write(Arm("elsewhere", edits=(elsewhere,)))
    with pytest.raises(SteeringError, match="are not known here"):
        builder.write(Arm("lost", edits=(Edit(0, tensors="0" * 64),)))


def test_strength_follows_scope_and_decay() -> None:
    def strengths(**options: object) -> list[float]:
        steering = Steering(0, torch.zeros_like, 2.0, Schedule(**options))  # type: ignore[arg-type]
        return [steering.strength_at(step) for step in range(4)]

    assert strengths() == [2.0] * 4
    assert strengths(scope="last-token") == strengths(scope="prompt") == [2.0, 0, 0, 0]
    assert strengths(scope="first", first=2) == [2.0, 2.0, 0, 0]
    assert strengths(decay=1.0) == pytest.approx([2.0, 1.0, 2 / 3, 0.5])
    assert strengths(decay=1.0, decay_power=2.0)[1] == 0.5


def test_strengths_along_prompt_and_answer() -> None:
    def strengths(n_tokens: int, scope: SteeringScope, **options: int) -> list[float]:
        steering = Steering(0, torch.zeros_like, 2.0, Schedule(scope, **options))
        return steering.strengths(5, n_tokens).flatten().tolist()

    assert strengths(7, "generated") == [0, 0, 0, 0, 2, 2, 2]
    assert strengths(7, "prompt") == [2, 2, 2, 2, 2, 0, 0]
    assert strengths(7, "prompt-ends", prompt_first=1, prompt_last=2) == [2, 0, 0, 2, 2, 0, 0]
    assert strengths(3, "prompt-ends", prompt_first=1, prompt_last=3) == [2, 0, 2]


def test_keeping_the_norm_turns_the_residual_stream_only() -> None:
    resid = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    push = torch.ones(8)
    keeps = torch.tensor([True, False])[:, None, None]
    edited = add_deltas(resid, [(lambda x: push.expand_as(x), torch.full((2, 1, 1), 3.0), keeps)])
    torch.testing.assert_close(edited[0].norm(), resid[0].norm())
    wanted = resid[0] + 3 * push
    torch.testing.assert_close(edited[0], wanted * resid[0].norm() / wanted.norm())
    torch.testing.assert_close(edited[1], resid[1] + 3 * push)


def test_several_layers_are_steered_at_once(model: LoadedModel) -> None:
    pushes = [torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    steering = tuple(
        Steering(layer, lambda x, push=push: push.expand_as(x), 2.0)
        for layer, push in enumerate(pushes)
    )
    prompt = tuple(model.encode_prompt(PROMPT, chat=True))
    row = decode(model, [RowRequest(prompt, 3, steering=steering)])[0]
    ids = list(prompt)
    for _ in range(3):

        def edit(resid: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
            edited = resid.clone()
            edited[:, len(prompt) - 1 :] += 2 * push
            return edited

        with (
            edit_resid(model.blocks[0], lambda x: edit(x, pushes[0])),
            edit_resid(model.blocks[1], lambda x: edit(x, pushes[1])),
        ):
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert row.token_ids == ids[len(prompt) :]


def test_changes_are_differences_of_log_probabilities(
    model: LoadedModel, sae: LoadedSae, edit: Edit, builder: ArmBuilder
) -> None:
    arm = Arm("a", edits=(edit,), strength=1.5, schedule=Schedule("all", decay=0.5))
    prompt = builder.prompt(arm, PROMPT, Sampling())
    told = builder.prompt(Arm("p", "prompted", instruction="PLANT"), PROMPT, Sampling())
    rows = decode(
        model,
        [
            RowRequest(prompt, 4),
            RowRequest(prompt, 4, steering=builder.write(arm).steering),
            RowRequest(told, 4),
        ],
    )
    unsteered, steered, prompted = read_changes(model, rows, [prompt] * 3)
    assert [c.change for c in unsteered] == pytest.approx([0.0] * 4, abs=1e-5)
    assert [c.kl for c in unsteered] == pytest.approx([0.0] * 4, abs=1e-5)
    assert [c.strength for c in steered] == pytest.approx([1.5, 1.0, 0.75, 0.6])
    text = rows[1].token_ids
    plain = model.logits(torch.tensor([[*prompt, *text]]))[0].log_softmax(-1)
    direction = target_of(sae, *LATENTS).direction

    def push(resid: torch.Tensor) -> torch.Tensor:
        position = torch.arange(resid.shape[1])
        step = (position - (len(prompt) - 1)).clamp(min=0)
        return resid + (1.5 / (1 + 0.5 * step))[:, None] * direction

    with edit_resid(model.blocks[1], push):
        own = model.logits(torch.tensor([[*prompt, *text]]))[0].log_softmax(-1)
    for step, change in enumerate(steered):
        at, token = len(prompt) - 1 + step, text[step]
        assert change.token == model.token_text(token)
        assert change.log_prob == pytest.approx(float(plain[at, token]), abs=1e-4)
        assert change.change == pytest.approx(float(own[at, token] - plain[at, token]), abs=1e-4)
        kl = float((own[at].exp() * (own[at] - plain[at])).sum())
        assert change.kl == pytest.approx(kl, abs=1e-4)
    assert all(change.strength == 0 for change in prompted)
    assert max(change.kl for change in prompted) > 0.1


def test_arms_samples_and_histories_of_a_request(
    model: LoadedModel, sae: LoadedSae, edit: Edit
) -> None:
    request = GenerationRequest(
        (PROMPT, "A dog was in the house."),
        (
            UNSTEERED,
            Arm("steered", edits=(edit,)),
            Arm("told", "prompted", instruction="PLANT"),
            Arm("random", "random", (edit,)),
        ),
        Sampling(max_new_tokens=3, temperature=1.0, samples=2),
        divergence=True,
    )
    result = generate(model, {sae.id: sae}, request)
    order = [(g.prompt_index, g.arm, g.sample) for g in result.generations]
    arms = ("unsteered", "steered", "told", "random")
    assert order == [(p, arm, s) for p in (0, 1) for arm in arms for s in (0, 1)]
    texts = {(g.prompt_index, g.arm, g.sample): g for g in result.generations}
    assert texts[0, "told", 0].text.split() == ["oui"] * 3
    assert texts[0, "unsteered", 0].text != texts[0, "unsteered", 1].text
    assert all(len(g.changes) == len(g.token_ids) for g in result.generations)
    assert result.request == request
    assert [size is not None for size in result.sizes] == [False, True, False, True]
    steered = Arm("steered", edits=(edit,))
    with pytest.raises(SteeringError, match="same name"):
        generate(model, {sae.id: sae}, replace(request, arms=(steered, steered)))
    with pytest.raises(SteeringError, match="2 chat histories were given for 4 arms"):
        generate(model, {sae.id: sae}, replace(request, histories=((), ())))
    with pytest.raises(SteeringError, match="without an arm"):
        generate(model, {sae.id: sae}, replace(request, arms=()))


def test_an_arm_goes_on_with_its_own_history(
    model: LoadedModel, sae: LoadedSae, edit: Edit
) -> None:
    told = (Turn("user", f"The cat {tiny.PLANTED_WORD}"), Turn("assistant", "oui"))
    arms = (UNSTEERED, Arm("steered", edits=(edit,), strength=0.001))
    request = GenerationRequest((PROMPT,), arms, Sampling(max_new_tokens=3))
    alone = generate(model, {sae.id: sae}, request).generations[0]
    later = generate(model, {sae.id: sae}, replace(request, histories=(told, ()))).generations
    assert later[0].text.split() == ["oui"] * 3
    assert later[1].text == alone.text
