"""The whole flow on a tiny model with a planted latent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saif_core.errors import PromptPairError, SteeringError, UnknownNameError
from saif_core.finding.ranking import choose_latents
from saif_core.models.loaded_model import LoadedModel
from saif_core.pipeline import rank_latents, run_pipeline
from saif_core.reading.pairs import estimate_work, read_latents
from saif_core.records.prompts import PromptPair
from saif_core.records.questions import LearnRequest
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from saif_core.records.texts import TokenEvent
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.writing.run import generate
from tests import tiny


@pytest.fixture
def request_(sae: LoadedSae) -> RankingRequest:
    return RankingRequest(
        sae_id=sae.id,
        instruction="planted",
        pairs=tiny.planted_pairs(12),
        read="last-token",
        top=5,
    )


def asked_for(
    sae: LoadedSae, prompts: tuple[str, ...], *latents: ChosenLatent, max_new_tokens: int = 48
) -> GenerationRequest:
    steered = Arm("steered", edits=(Edit(sae.layer, sae_id=sae.id, latents=latents),))
    return GenerationRequest(prompts, (UNSTEERED, steered), Sampling(max_new_tokens=max_new_tokens))


def test_planted_latent_ranks_first(
    model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    ranking = rank_latents(model, sae, request_)
    assert ranking.latents[0].index == 7
    assert ranking.latents[0].score == 1.0
    assert ranking.latents[0].rate_positive == 1.0
    assert ranking.latents[0].rate_negative == 0.0
    scores = [latent.score for latent in ranking.latents]
    assert scores == sorted(scores, reverse=True)
    assert ranking.n_selective >= 1
    assert len(ranking.latents[0].top_tokens) > 0


def test_statistics_equal_a_run_of_each_prompt_alone(
    model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    ranking = rank_latents(model, sae, request_)
    alone = [
        sae.encode(
            model.resid_at_end(model.encode_prompt(pair.positive, chat=True), sae.layer)[None]
        )[0, 7].item()
        for pair in request_.pairs
    ]
    assert ranking.latents[0].mean == pytest.approx(np.mean(alone), rel=1e-4)
    assert ranking.latents[0].std == pytest.approx(np.std(alone), rel=1e-2, abs=1e-4)
    coefficient = choose_latents(ranking, top=1, beta=2.0)[0].coefficient
    assert coefficient == pytest.approx(np.mean(alone) + 2 * np.std(alone), rel=1e-3)


@pytest.mark.parametrize("read", ["last-token", "response"])
def test_second_ranking_of_the_same_pairs_computes_nothing(
    read: str, model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    cache = tiny.MemoryCache()
    request = replace(request_, read=read, response_tokens=6)
    before = estimate_work(model, sae, request, cache)
    first = rank_latents(model, sae, request, cache=cache)
    second = rank_latents(model, sae, request, cache=cache)
    assert first.tokens_computed > 0
    assert not first.cached
    assert not before.cached
    if read == "last-token":
        assert before.tokens_to_compute == first.tokens_computed < first.tokens_total
    assert second.tokens_computed == 0
    assert second.cached
    assert second.latents == first.latents
    assert estimate_work(model, sae, request, cache).tokens_to_compute == 0


def test_response_reading_covers_the_models_own_answers(
    model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    pair = request_.pairs[0]
    request = replace(request_, pairs=(pair,), read="response", response_tokens=5)
    read = read_latents(model, sae, request)
    prompt = model.encode_prompt(pair.positive, chat=True)
    answer = model.hf_model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
    )[0].tolist()
    n_read = read.positive.n_rows
    assert n_read == len(answer) - len(prompt) - (answer[-1] == model.d_vocab - 1)
    expected = sae.encode(
        torch.stack(
            [model.resid_at_end(answer[: len(prompt) + i + 1], sae.layer) for i in range(n_read)]
        )
    )
    np.testing.assert_allclose(read.positive.dense(), expected.numpy(), atol=1e-3, rtol=1e-3)


def test_whole_flow_steers_with_what_it_ranked(
    model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    learn = LearnRequest(request_, "saif", {"top": 5, "beta": 1.0}, sae_ids=(sae.id,))
    result = run_pipeline(
        model, [sae], learn, ["one two"], strength=30.0, sampling=Sampling(max_new_tokens=6)
    )
    arms = {generation.arm: generation for generation in result.generations}
    (steered,) = result.request.steered
    assert steered.edits[0].latents[0].index == 7
    assert steered.origin is not None
    assert steered.origin.source == "saif"
    assert arms["steered"].token_ids != arms["unsteered"].token_ids
    unsteered_size, steered_size = result.sizes
    assert unsteered_size is None
    assert steered_size is not None
    assert steered_size.norm > 0
    assert result.recipe.sae_sha256s == {sae.id: sae.sha256}
    assert arms["unsteered"].perplexity is not None


def test_unsteered_perplexity_equals_a_plain_forward(model: LoadedModel, sae: LoadedSae) -> None:
    request = asked_for(sae, ("one two",), ChosenLatent(7, 5.0), max_new_tokens=6)
    generation = generate(model, {sae.id: sae}, request).generations[0]
    prompt = model.encode_prompt("one two", chat=True)
    ids = torch.tensor([[*prompt, *generation.token_ids]])
    log_probs = torch.log_softmax(model.hf_model(ids).logits[0, :-1].float(), -1)
    picked = log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
    assert generation.perplexity == pytest.approx(float(torch.exp(-picked.mean())), rel=1e-3)


def test_tokens_stream_and_end_as_the_final_text(model: LoadedModel, sae: LoadedSae) -> None:
    events: list[TokenEvent] = []
    request = asked_for(sae, ("one", "two one"), ChosenLatent(7, 40.0), max_new_tokens=5)
    result = generate(model, {sae.id: sae}, request, on_token=events.append)
    for generation in result.generations:
        mine = [
            e
            for e in events
            if (e.prompt_index, e.arm) == (generation.prompt_index, generation.arm)
        ]
        assert [e.n_tokens for e in mine] == (list(range(1, len(generation.token_ids) + 1)) or [0])
        assert mine[-1].text == generation.text


def test_bad_requests_are_refused(
    model: LoadedModel, sae: LoadedSae, request_: RankingRequest
) -> None:
    with pytest.raises(PromptPairError, match="no prompt pairs"):
        rank_latents(model, sae, replace(request_, pairs=()))
    with pytest.raises(UnknownNameError, match="sensitivity"):
        rank_latents(model, sae, replace(request_, selector="guess"))
    with pytest.raises(SteeringError, match="one of fires, higher"):
        rank_latents(model, sae, replace(request_, selector_parameters={"compare": "sideways"}))
    with pytest.raises(SteeringError, match="nothing to steer with"):
        generate(model, {sae.id: sae}, asked_for(sae, ("one",)))
    with pytest.raises(PromptPairError, match="without a prompt"):
        generate(model, {sae.id: sae}, asked_for(sae, (), ChosenLatent(0, 1.0)))
    silent = replace(request_, pairs=(PromptPair("one", "one"),) * 2)
    ranking = rank_latents(model, sae, silent)
    assert all(latent.score == 0 for latent in ranking.latents)
