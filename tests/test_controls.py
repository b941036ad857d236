"""Controls act on what an arm's edits add, whatever method writes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.records.evaluation import CONTROLS
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    ArmKind,
    Edit,
    GenerationRequest,
    Sampling,
    Schedule,
)
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Delta
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode
from saif_core.writing.run import generate
from tests import tiny
from tests.contracts import planted_resid
from tests.plugins import OWN_WRITE, take_up

WRITERS = ("addition", "clamp", "ablate", "vector", "swell")
PROMPT = "The cat sees the old house."


@pytest.fixture(params=WRITERS)
def edit(
    request: pytest.FixtureRequest, sae: LoadedSae, tensors: Tensors, plugin_folder: Path
) -> Edit:
    """An edit by every way of writing: methods of latents, a vector, a source's own."""
    name: str = request.param
    push = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(8))
    if name == "vector":
        return Edit(1, tensors=tensors.put({"vector": push}))
    if name == "swell":
        take_up(plugin_folder, sources__swell=OWN_WRITE)
        return Edit(1, "swell", tensors=tensors.put({"push": 0.2 * push}))
    latents = (ChosenLatent(tiny.PLANTED_LATENT, 4.0), ChosenLatent(3, 1.5))
    return Edit(1, name, sae_id=sae.id, latents=latents)


def delta_of(builder: ArmBuilder, arm: Arm) -> Delta:
    (steering,) = builder.write(arm).steering
    return steering.delta


def test_a_random_control_adds_as_much_at_every_position(builder: ArmBuilder, edit: Edit) -> None:
    resid = planted_resid()
    steered = delta_of(builder, Arm("a", edits=(edit,)))(resid)
    drawn = [delta_of(builder, Arm("r", "random", (edit,), seed=seed))(resid) for seed in (0, 0, 1)]
    for control in drawn:
        torch.testing.assert_close(control.norm(dim=-1), steered.norm(dim=-1), rtol=1e-4, atol=1e-5)
        strongest = steered.norm(dim=-1) > 1e-3
        cosines = torch.cosine_similarity(control[strongest], steered[strongest], dim=-1)
        assert bool((cosines.abs() < 0.8).all())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    assert delta_of(builder, Arm("r", "random", (edit,)))(resid.bfloat16()).dtype == torch.bfloat16


def test_a_random_control_of_a_method_points_in_one_direction(
    builder: ArmBuilder, edit: Edit
) -> None:
    added = delta_of(builder, Arm("r", "random", (edit,)))(planted_resid()).flatten(0, 1)
    added = added[added.norm(dim=-1) > 1e-3]
    unit = added / added.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit, unit[:1].expand_as(unit), rtol=1e-3, atol=1e-4)


def test_a_flipped_control_is_minus_what_is_steered(
    model: LoadedModel, builder: ArmBuilder, edit: Edit
) -> None:
    arm = Arm("a", edits=(edit,), strength=0.5, schedule=Schedule("all", decay=0.5))
    flipped = replace(arm, name="f", kind="flipped")
    (steering,), (opposite,) = builder.write(arm).steering, builder.write(flipped).steering
    assert opposite.delta is steering.delta
    assert [opposite.strength_at(n) for n in range(4)] == [
        -steering.strength_at(n) for n in range(4)
    ]
    minus = builder.write(replace(arm, strength=-0.5)).steering
    prompt = builder.prompt(UNSTEERED, PROMPT, Sampling())
    one, other = decode(
        model, [RowRequest(prompt, 5, steering=(opposite,)), RowRequest(prompt, 5, steering=minus)]
    )
    assert one.token_ids == other.token_ids


def bias_by_hand(model: LoadedModel, added: Tensor) -> Tensor:
    """What is added to the residual stream, through the final norm's scale and the head."""
    head: Tensor = model.hf_model.get_output_embeddings().weight
    prompt = model.encode_prompt(NEUTRAL_PROMPT, chat=True)
    rms = model.resid_at_end(prompt, model.n_layers - 1).pow(2).mean().sqrt()
    return (head @ (added * model.final_norm.get_parameter("weight"))).detach() / rms


def test_a_logit_bias_is_what_the_edits_add_through_the_head(
    model: LoadedModel, builder: ArmBuilder, edit: Edit, tensors: Tensors
) -> None:
    below = Edit(0, tensors=tensors.put({"vector": torch.ones(tiny.D_MODEL).cumsum(0) / 9}))
    arms = [replace(edit, share=0.25), replace(below, share=0.75)]
    steering, bias, forced = builder.write(Arm("b", "logit-bias", tuple(arms), strength=2.0))
    assert (steering, forced) == ((), ())
    assert bias is not None
    prompt = model.encode_prompt(NEUTRAL_PROMPT, chat=True)
    added = [
        one.share
        * delta_of(builder, Arm("a", edits=(one,)))(
            model.resid_at_end(prompt, one.layer)[None, None]
        )[0, 0]
        for one in arms
    ]
    torch.testing.assert_close(
        bias, 2.0 * bias_by_hand(model, torch.stack(added).sum(0)), rtol=1e-3, atol=1e-4
    )


def test_a_cue_token_is_the_most_promoted_one_forced_once(
    model: LoadedModel, builder: ArmBuilder, edit: Edit
) -> None:
    bias = builder.write(Arm("b", "logit-bias", (edit,))).logit_bias
    assert bias is not None
    cue = int(bias.argmax())
    written = builder.write(Arm("c", "cue-token", (edit,)))
    assert written == ((), None, (cue,))
    prompt = builder.prompt(UNSTEERED, PROMPT, Sampling())
    cued, plain = decode(
        model,
        [RowRequest(prompt, 4, forced=written.forced), RowRequest((*prompt, cue), 3)],
    )
    assert cued.token_ids == [cue, *plain.token_ids]


@pytest.mark.parametrize("kind", [*CONTROLS, "steered"])
def test_at_strength_zero_every_arm_is_the_unsteered_one(
    model: LoadedModel, builder: ArmBuilder, edit: Edit, kind: ArmKind
) -> None:
    written = builder.write(Arm("a", kind, (edit,), strength=0.0))
    prompt = builder.prompt(UNSTEERED, PROMPT, Sampling())
    request = RowRequest(
        prompt,
        3,
        steering=written.steering,
        logit_bias=written.logit_bias,
        forced=written.forced,
    )
    still, plain = decode(model, [request, RowRequest(prompt, 3)])
    assert still.token_ids == plain.token_ids


def test_most_of_an_sae_has_a_random_control_too(builder: ArmBuilder, sae: LoadedSae) -> None:
    latents = tuple(ChosenLatent(index, 1.0 + index % 3) for index in range(tiny.D_SAE - 5))
    edit = Edit(1, sae_id=sae.id, latents=latents)
    resid = planted_resid()
    steered = delta_of(builder, Arm("a", edits=(edit,)))(resid)
    control = delta_of(builder, Arm("r", "random", (edit,)))(resid)
    torch.testing.assert_close(control.norm(dim=-1), steered.norm(dim=-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(control, steered)


def test_controls_of_a_request_are_measured_and_written(model: LoadedModel, sae: LoadedSae) -> None:
    edit = Edit(1, sae_id=sae.id, latents=(ChosenLatent(tiny.PLANTED_LATENT, 6.0),))
    arms = (
        UNSTEERED,
        Arm("steered", edits=(edit,)),
        *(Arm(kind, kind, (edit,)) for kind in ("random", "flipped", "logit-bias", "cue-token")),
    )
    result = generate(
        model, {sae.id: sae}, GenerationRequest((PROMPT,), arms, Sampling(max_new_tokens=3))
    )
    texts = {made.arm: made.text for made in result.generations}
    sizes = dict(zip((arm.name for arm in arms), result.sizes, strict=True))
    assert texts["steered"].split() == texts["logit-bias"].split() == ["oui"] * 3
    assert texts["cue-token"].split()[0] == "oui"
    assert texts["cue-token"].split() != ["oui"] * 3
    assert "oui" not in texts["random"] + texts["flipped"] + texts["unsteered"]
    assert sizes["unsteered"] is sizes["logit-bias"] is sizes["cue-token"] is None
    steered = sizes["steered"]
    assert steered is not None
    for control in ("random", "flipped"):
        size = sizes[control]
        assert size is not None
        assert size.norm == pytest.approx(steered.norm, rel=1e-4)
        assert size.resid_share == pytest.approx(steered.resid_share, rel=1e-4)
