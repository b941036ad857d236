"""How texts are written: nucleus, stop texts, the system turn, several samples."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from saif_core.evaluating.evaluation import evaluate
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import Prompting
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.prompts import Instruction, Turn, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from saif_core.records.texts import Generation, TokenEvent
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.writing.decoder import RowRequest, decode
from saif_core.writing.run import generate
from tests import tiny

PROMPT = "The cat sees the old house."
IDS = (5, 6, 7, 8, 9, 10)


def drawn(model: LoadedModel, n: int, **options: Any) -> list[list[int]]:
    requests = [RowRequest(IDS, seed=2, sample=sample, **options) for sample in range(n)]
    return [row.token_ids for row in decode(model, requests)]


def test_the_nucleus_holds_the_likeliest_tokens_and_no_others(model: LoadedModel) -> None:
    n, top_p = 4000, 0.6
    likely = model.hf_model(torch.tensor([IDS])).logits[0, -1].float().softmax(-1)
    order = likely.argsort(descending=True)
    n_kept = int((likely[order].cumsum(0) < top_p).sum()) + 1
    kept = order[:n_kept]
    tokens = drawn(model, n, max_new_tokens=1, temperature=1.0, top_p=top_p)
    counts = torch.zeros_like(likely)
    for (token,) in tokens:
        counts[token] += 1
    assert 1 < n_kept < len(likely) / 2
    assert int(counts.sum()) == int(counts[kept].sum()) == n
    expected = likely[kept] / likely[kept].sum()
    assert float((counts[kept] / n - expected).abs().sum() / 2) < 0.15


def test_a_nucleus_of_one_token_is_greedy_and_one_of_all_changes_nothing(
    model: LoadedModel,
) -> None:
    greedy = drawn(model, 1, max_new_tokens=8)
    plain = drawn(model, 3, max_new_tokens=8, temperature=2.0)
    assert drawn(model, 3, max_new_tokens=8, temperature=2.0, top_p=1e-6) == greedy * 3
    assert drawn(model, 3, max_new_tokens=8, temperature=2.0, top_p=1.0) == plain
    assert drawn(model, 1, max_new_tokens=8, top_p=0.1) == greedy
    assert plain[0] != plain[1]


def test_rows_of_one_batch_have_their_own_nucleus(model: LoadedModel) -> None:
    rows = [RowRequest(IDS, 6, 2.0, 2, 0, top_p=top_p) for top_p in (1.0, 1e-6, 0.5)]
    together = [row.token_ids for row in decode(model, rows)]
    assert together == [decode(model, [row])[0].token_ids for row in rows]


def written(model: LoadedModel, request: GenerationRequest) -> list[Generation]:
    return list(generate(model, {}, request).generations)


def test_a_text_ends_before_its_stop(model: LoadedModel) -> None:
    request = GenerationRequest((PROMPT, "A dog was in the house."), (UNSTEERED,))
    request = replace(request, sampling=Sampling(max_new_tokens=8))
    whole = written(model, request)
    words = whole[0].text.split()
    stop = f" {words[3]}"
    assert [text.stopped for text in whole] == ["length"] * 2
    events: list[TokenEvent] = []
    asked = replace(request, sampling=replace(request.sampling, stop=("never", stop)))
    first, other = generate(model, {}, asked, on_token=events.append).generations
    assert first.stopped == "stop"
    assert first.text == whole[0].text[: whole[0].text.index(stop)]
    assert len(first.token_ids) < 8
    assert first.token_ids == whole[0].token_ids[: len(first.token_ids)]
    mine = [event for event in events if event.prompt_index == 0]
    assert mine[-1].text == first.text
    assert not any(stop in event.text for event in mine)
    if stop not in whole[1].text:
        assert other.text == whole[1].text


def test_a_stop_may_begin_and_end_within_tokens(model: LoadedModel) -> None:
    request = GenerationRequest((PROMPT,), (UNSTEERED,), Sampling(max_new_tokens=8))
    (whole,) = written(model, request)
    words = whole.text.split(" ")
    stop = f"{words[2][-1]} {words[3][:1]}"
    asked = replace(request, sampling=replace(request.sampling, stop=(stop,)))
    (cut,) = written(model, asked)
    assert cut.stopped == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_a_text_that_ends_by_itself_did_not_stop(model: LoadedModel) -> None:
    ends = model.hf_model.generation_config.eos_token_id
    request = GenerationRequest((PROMPT,), (UNSTEERED,), Sampling(max_new_tokens=4))
    (whole,) = written(model, request)
    model.hf_model.generation_config.eos_token_id = whole.token_ids[2]
    try:
        (ended,) = written(model, request)
    finally:
        model.hf_model.generation_config.eos_token_id = ends
    assert ended.stopped == "end"
    assert ended.token_ids == whole.token_ids[:2]


def test_an_evaluation_reads_texts_without_their_stop(
    model: LoadedModel, tiny_sae: LoadedSae
) -> None:
    contents = tuple(tiny.contents(4, seed=2))
    instruction = Instruction(
        "planted", "", "keyword", {"keyword": "oui"}, (Wording(tiny.PLANTED_WORD),)
    )
    request = EvaluationRequest(
        instruction,
        (),
        rank_contents=(),
        rank_wordings=(),
        test_contents=contents,
        test_wordings=(tiny.PLANTED_WORD,),
        candidates=(),
        controls=(),
        sampling=Sampling(max_new_tokens=4, stop=(" oui oui",)),
    )
    cache = tiny.MemoryCache()
    for _ in range(2):
        evaluation, texts = evaluate(model, [tiny_sae], request, cache=cache)
        told = [text for text in texts if text.cell == 1]
        assert evaluation.cells[1].setting.arm == "prompted"
        # " oui oui" is there from the first two words on.
        assert [text.text for text in told] == [""] * 4
    longer = replace(request, sampling=replace(request.sampling, stop=()))
    _, texts = evaluate(model, [tiny_sae], longer, cache=cache)
    assert [text.text for text in texts if text.cell == 1] == [" oui oui oui oui"] * 4


REFUSES_SYSTEM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DROPS_SYSTEM = REFUSES_SYSTEM.replace(
    "{{ raise_exception('no system turns') }}{% endif %}", "{% else %}"
).replace("<|im_end|>\n' }}{% endfor", "<|im_end|>\n' }}{% endif %}{% endfor")
HISTORY = (Turn("user", "hello"), Turn("assistant", "world"))


def said(template: str | None, **options: Any) -> str:
    """A prompt as the model sees it, as text."""
    prompting = Prompting()
    prompting.tokenizer = tiny.build_tokenizer(with_chat_template=template is not None)
    if template:
        prompting.tokenizer.chat_template = template
    ids = prompting.encode_prompt("one two", chat=True, **options)
    text: str = prompting.tokenizer.decode(ids)
    return text


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def test_the_system_turn_stands_first_in_a_template_that_has_one() -> None:
    end = "<|im_start|>assistant\n"
    assert said(tiny.CHAT_TEMPLATE, system="You are old.") == (
        turn("system", "You are old.") + turn("user", "one two") + end
    )
    assert (
        said(tiny.CHAT_TEMPLATE)
        == turn("system", "You are helpful.") + turn("user", "one two") + end
    )
    assert said(tiny.CHAT_TEMPLATE, system="You are old.", history=HISTORY) == (
        turn("system", "You are old.")
        + turn("user", "hello")
        + turn("assistant", "world")
        + turn("user", "one two")
        + end
    )


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_a_template_without_system_turns_has_it_before_the_first_user_turn(template: str) -> None:
    end = "<|im_start|>assistant\n"
    assert said(template) == turn("user", "one two") + end
    assert said(template, system="You are old.") == (turn("user", "You are old.\n\none two") + end)
    assert said(template, system="You are old.", history=HISTORY) == (
        turn("user", "You are old.\n\nhello")
        + turn("assistant", "world")
        + turn("user", "one two")
        + end
    )


def test_without_a_template_the_system_text_stands_before_everything() -> None:
    assert said(None, system="You are old.") == "You are old.\none two"
    assert said(None, system="You are old.", history=HISTORY) == (
        "You are old.\nhello\nworld\none two"
    )


def test_the_system_turn_reaches_every_arm(model: LoadedModel) -> None:
    told = Arm("told", "prompted", instruction=tiny.PLANTED_WORD)
    request = GenerationRequest((PROMPT,), (UNSTEERED, told), Sampling(max_new_tokens=3))
    plain = written(model, request)
    asked = replace(
        request, sampling=replace(request.sampling, system=f"You are {tiny.PLANTED_WORD} .")
    )
    result = generate(model, {}, asked)
    assert "oui" not in plain[0].text
    assert [text.text.split() for text in result.generations] == [["oui"] * 3] * 2
    assert result.request.sampling.system == f"You are {tiny.PLANTED_WORD} ."
    assert model.view_prompt(PROMPT, chat=True, system="You are old .").tokens != (
        model.view_prompt(PROMPT, chat=True).tokens
    )


def test_samples_share_their_draws_between_arms(model: LoadedModel, tiny_sae: LoadedSae) -> None:
    latents = (ChosenLatent(tiny.PLANTED_LATENT, 6.0),)
    arms = (
        UNSTEERED,
        Arm("again", "unsteered"),
        Arm("steered", edits=(Edit(1, sae_id=tiny_sae.id, latents=latents),)),
    )
    sampling = Sampling(max_new_tokens=6, temperature=1.5, seed=4, samples=3)
    request = GenerationRequest((PROMPT, "one two"), arms, sampling)
    result = generate(model, {tiny_sae.id: tiny_sae}, request)
    assert request.n_texts == len(result.generations) == 18
    texts = {(g.prompt_index, g.arm, g.sample): g.token_ids for g in result.generations}
    for number in (0, 1):
        own = [texts[number, "unsteered", sample] for sample in range(3)]
        assert own == [texts[number, "again", sample] for sample in range(3)]
        assert len(set(own)) == 3
    other = generate(
        model, {tiny_sae.id: tiny_sae}, replace(request, sampling=replace(sampling, seed=5))
    )
    assert [g.token_ids for g in other.generations] != [g.token_ids for g in result.generations]
    alone = replace(request, sampling=replace(sampling, samples=1))
    first = generate(model, {tiny_sae.id: tiny_sae}, alone).generations
    assert [g.token_ids for g in first] == [
        g.token_ids for g in result.generations if g.sample == 0
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("temperature", -0.1),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2049),
        ("samples", 65),
        ("seed", -1),
        ("stop", [""]),
        ("stop", ["x"] * 9),
        ("stop", ["x" * 201]),
        ("system", "x" * 20_001),
    ],
)
def test_sampling_out_of_bounds_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"not a GenerationRequest.*{field}"):
        from_json(
            GenerationRequest,
            {**to_json(GenerationRequest(("a",))), "sampling": {field: value}},
        )
