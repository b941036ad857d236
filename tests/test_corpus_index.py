"""A corpus index of the tiny model, recomputed from plain forward passes."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from saif_core.errors import CorpusError
from saif_core.explaining.corpus_index import index_corpus
from saif_core.explaining.profiles import PHRASE_TOKENS
from saif_core.inputs.documents import CONTEXT_TOKENS, encode_contexts, read_documents
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.corpus import QUANTILES, IndexRequest, LatentIndex
from saif_core.records.jobs import Step
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from storage import Store, open_store
from tests import tiny

# As Gemma's: it knows no system turn, and users and assistants have to alternate.
STRICT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{{ '[' + message['role'] + ']' + message['content'] }}{% endfor %}"
)
WORDS = "the old cat sees a dog in house one two three big red sun".split()


class Killed(Exception):
    """Stands for the end of a process."""


def no_step(_done: int, _total: int, _message: str) -> None:
    pass


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id=str(tiny_sae_dir), model=model)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    rng = np.random.default_rng(0)
    lines = [
        {"text": " ".join(rng.choice(WORDS, size=int(rng.integers(1, 60))))} for _ in range(200)
    ]
    lines[3] = {"messages": [{"role": "user", "content": "the cat"}]}  # type: ignore[dict-item]
    lines[5] = {"text": " ".join(WORDS * 40)}
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def whole(model: LoadedModel, sae: LoadedSae, corpus: Path) -> tuple[Store, LatentIndex]:
    """A finished index."""
    store = open_store("sqlite://")
    request = IndexRequest("words", (str(corpus),), (sae.id,))
    made = index_corpus(model, [sae], request, store.latents, store.profiles, step=no_step)
    (index,) = made.indexes
    return store, index


def plain_activations(
    model: LoadedModel, sae: LoadedSae, corpus: Path
) -> tuple[list[list[int]], np.ndarray]:
    """Tokens of each context, and all activations (n_tokens, d_sae) from single forward passes."""
    contexts = [
        tokens
        for document in read_documents([corpus])
        for tokens in encode_contexts(model, document)
    ]
    rows = []
    for tokens in contexts:
        output = model.hf_model(torch.tensor([tokens]), output_hidden_states=False)
        del output
        resid = model.run_sequences(torch.tensor([tokens]), [len(tokens)], [sae.layer])
        rows.append(sae.encode(resid[sae.layer][0]).numpy())
    return contexts, np.concatenate(rows)


def test_every_figure_of_a_profile_is_that_of_the_plain_activations(
    model: LoadedModel, sae: LoadedSae, corpus: Path, whole: tuple[Store, LatentIndex]
) -> None:
    store, index = whole
    contexts, expected = plain_activations(model, sae, corpus)
    starts = np.cumsum([0, *map(len, contexts)])
    assert index.finished
    assert (index.n_contexts, index.n_tokens) == (len(contexts), len(expected))
    assert max(map(len, contexts)) == CONTEXT_TOKENS
    ids = np.concatenate(contexts)
    special = set(model.tokenizer.all_special_ids)
    fires = expected > 0
    for latent in (tiny.PLANTED_LATENT, *range(0, tiny.D_SAE, 9)):
        profile = store.profiles.get(index.id, latent)
        mine = np.flatnonzero(fires[:, latent])
        values = expected[mine, latent]
        assert profile.n_fired == len(mine)
        if not len(mine):
            assert not profile.examples
            continue
        assert profile.maximum == pytest.approx(values.max(), rel=1e-3)
        assert profile.mean == pytest.approx(values.mean(), rel=1e-3)
        np.testing.assert_allclose(profile.quantiles, np.quantile(values, QUANTILES), rtol=1e-3)
        assert sum(profile.histogram) == len(mine)
        assert profile.n_first == np.isin(mine, starts[:-1]).sum()
        assert profile.n_special == sum(int(ids[at]) in special for at in mine)
        for other, n_both in profile.cofiring:
            assert n_both == (fires[:, latent] & fires[:, other]).sum()
        top = [example for example in profile.examples if example.kind == 0]
        best = [expected[starts[e.context] + e.position, latent] for e in top]
        assert best[0] == pytest.approx(values.max(), rel=1e-3)
        assert best == sorted(best, reverse=True)
        assert len({e.context for e in profile.examples}) == len(profile.examples)
        ends = [starts[e.context] + e.position + 1 for e in profile.examples]
        phrases = {
            tuple(ids[max(starts[e.context], end - PHRASE_TOKENS) : end])
            for e, end in zip(profile.examples, ends, strict=True)
        }
        assert len(phrases) == len(profile.examples)
        for example in profile.examples:
            first = starts[example.context] + example.start
            window = expected[first : first + len(example.activations), latent]
            np.testing.assert_allclose(example.activations, window, rtol=1e-3, atol=1e-6)
            share = expected[starts[example.context] + example.position, latent] / values.max()
            if example.kind:
                assert (example.kind - 1) / 4 - 1e-3 <= share <= example.kind / 4 + 1e-3
        logits = model.unembed_directions(sae.W_dec[latent : latent + 1])[0]
        logits = logits - logits.mean()
        assert profile.promoted[0][0] == int(logits.argmax())
        assert profile.suppressed[0][1] == pytest.approx(float(logits.min()), rel=1e-4)
        assert sum(profile.logit_histogram) == model.d_vocab


def test_partners_share_most_of_their_tokens(
    model: LoadedModel, sae: LoadedSae, corpus: Path, whole: tuple[Store, LatentIndex]
) -> None:
    store, index = whole
    _, expected = plain_activations(model, sae, corpus)
    fires = (expected > 0).astype(float)
    together = fires.T @ fires
    share = together / np.sqrt(np.outer(*[np.maximum(np.diag(together), 1)] * 2))
    np.fill_diagonal(share, 0)
    share[together < 3] = 0
    for latent in range(0, tiny.D_SAE, 7):
        found = [other for other, _ in store.profiles.get(index.id, latent).cofiring]
        best = np.sort(share[latent])[::-1][: len(found)]
        np.testing.assert_allclose(share[latent, found], best)
        assert len(found) == min(8, int((share[latent] > 0).sum()))


@pytest.mark.parametrize("seed", range(4))
def test_an_index_that_was_killed_ends_the_same_to_the_last_byte(
    model: LoadedModel,
    sae: LoadedSae,
    corpus: Path,
    whole: tuple[Store, LatentIndex],
    tmp_path: Path,
    seed: int,
) -> None:
    complete, index = whole
    rng = np.random.default_rng(seed)
    request = IndexRequest("words", (str(corpus),), (sae.id,))
    url = f"sqlite:///{tmp_path / 'index.db'}"
    n_kills = 0
    while True:
        store = open_store(url)
        left = int(rng.integers(1, 6))

        def step(_done: int, _total: int, _message: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        try:
            made = index_corpus(model, [sae], request, store.latents, store.profiles, step=step)
            break
        except Killed:
            n_kills += 1
            store.close()
    assert n_kills
    (again,) = made.indexes
    assert (again.n_tokens, again.n_nonzero) == (index.n_tokens, index.n_nonzero)
    assert store.latents.density(again.id).tobytes() == complete.latents.density(index.id).tobytes()
    for latent in range(tiny.D_SAE):
        one, other = (
            s.profiles.get(i, latent) for s, i in ((store, again.id), (complete, index.id))
        )
        assert repr(one) == repr(other)
    store.close()


def test_several_saes_are_read_in_one_pass_and_a_finished_index_is_kept(
    model: LoadedModel, sae: LoadedSae, corpus: Path, tmp_path: Path
) -> None:
    other_dir = tiny.save_sae(tmp_path / "other", Path(model.id), layer=0)
    other = load_sae_folder(other_dir, id="other", model=model)
    store = open_store("sqlite://")
    request = IndexRequest("words", (str(corpus),), (sae.id, "other"))
    first = index_corpus(model, [sae, other], request, store.latents, store.profiles, step=no_step)
    assert [index.sae_id for index in first.indexes] == [sae.id, "other"]

    def refuse(_done: int, _total: int, _message: str) -> None:
        raise AssertionError("a finished index was read again")

    again = index_corpus(model, [sae, other], request, store.latents, store.profiles, step=refuse)
    assert again == first


@pytest.mark.parametrize("at", [1, 3, 20])
def test_two_that_read_one_text_at_once_store_every_context_once(
    model: LoadedModel,
    sae: LoadedSae,
    corpus: Path,
    whole: tuple[Store, LatentIndex],
    tmp_path: Path,
    at: int,
) -> None:
    complete, index = whole
    url = f"sqlite:///{tmp_path / 'index.db'}"
    request = IndexRequest("words", (str(corpus),), (sae.id,))
    stores = [open_store(url), open_store(url)]
    seconds: list[LatentIndex] = []

    def read(store: Store, step: Step) -> LatentIndex:
        found = index_corpus(model, [sae], request, store.latents, store.profiles, step=step)
        return found.indexes[0]

    n_steps = 0

    def meanwhile(_done: int, _total: int, _message: str) -> None:
        nonlocal n_steps
        n_steps += 1
        # The second begins, and ends, while the first is in the middle of its work.
        if n_steps == at:
            seconds.append(read(stores[1], no_step))

    first = read(stores[0], meanwhile) if at < 20 else read(stores[0], no_step)
    (second,) = seconds or [read(stores[1], no_step)]
    assert first == second
    assert [one.id for one in stores[0].latents.indexes()] == [first.id]
    assert (first.n_contexts, first.n_tokens) == (index.n_contexts, index.n_tokens)
    density = stores[1].latents.density(first.id)
    assert density.tobytes() == complete.latents.density(index.id).tobytes()
    for latent in range(0, tiny.D_SAE, 5):
        assert repr(stores[0].profiles.get(first.id, latent)) == repr(
            complete.profiles.get(index.id, latent)
        )
    for store in stores:
        store.close()


def test_two_that_take_turns_fill_one_index(
    model: LoadedModel, sae: LoadedSae, corpus: Path, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    # As in two processes, each has a model of its own.
    other = load_model(model.id, id=model.id)
    read_with = [(model, sae), (other, load_sae_folder(tiny_sae_dir, id=sae.id, model=other))]
    url = f"sqlite:///{tmp_path / 'index.db'}"
    request = IndexRequest("words", (str(corpus),), (sae.id,))
    stores = [open_store(url), open_store(url)]
    turn, failed = threading.Condition(), list[BaseException]()
    whose = 0

    def reader(number: int) -> None:
        def step(_done: int, _total: int, message: str) -> None:
            nonlocal whose
            if message.startswith("reading"):
                with turn:
                    whose = 1 - number
                    turn.notify_all()
                    turn.wait_for(lambda: whose == number, timeout=0.5)

        (own, own_sae), store = read_with[number], stores[number]
        try:
            index_corpus(own, [own_sae], request, store.latents, store.profiles, step=step)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    (index,) = stores[0].latents.indexes()
    contexts, _ = plain_activations(model, sae, corpus)
    stored = [ids.tolist() for ids in _contexts_of(stores[0], index.id)]
    assert stored == contexts
    for store in stores:
        store.close()


def _contexts_of(store: Store, index_id: str) -> list[np.ndarray]:
    return [
        tokens
        for block in store.latents.blocks(index_id)
        for tokens in np.split(block.token_ids, block.context_starts[1:])
    ]


def test_conversations_that_the_template_refuses_are_left_out_and_counted(
    model: LoadedModel, sae: LoadedSae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", STRICT_TEMPLATE)
    turns = [{"role": "user", "content": "the cat"}, {"role": "user", "content": "a dog"}]
    system = [{"role": "system", "content": "You are helpful"}, turns[0]]
    path = tmp_path / "chats.jsonl"
    documents = [{"messages": system}, {"messages": turns}, {"text": "the old cat"}]
    path.write_text("\n".join(map(json.dumps, documents)))
    store, said = open_store("sqlite://"), list[str]()
    request = IndexRequest("chats", (str(path),), (sae.id,))
    made = index_corpus(
        model,
        [sae],
        request,
        store.latents,
        store.profiles,
        step=lambda _done, _total, message: said.append(message),
    )
    assert made.n_left_out == 1
    assert made.indexes[0].n_contexts == 2
    assert all("; 1 conversation left out, as the chat template refuses" in one for one in said)
    first = model.tokenizer.decode(_contexts_of(store, made.indexes[0].id)[0])
    assert first == "[user]You are helpful\n\nthe cat"
    path.write_text(json.dumps({"messages": turns}))
    with pytest.raises(CorpusError, match="None of 1 conversation.*take turns"):
        index_corpus(model, [sae], request, store.latents, store.profiles, step=no_step)
