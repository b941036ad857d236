"""The page of one latent, with an index of some 200 texts and without one."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine, store
from app.dashboard.latent.evidence import percent
from saif_core.engine.job import Job
from saif_core.explaining import latent_scores
from saif_core.explaining.latent_scores import verdict
from saif_core.records.corpus import LatentIndex, LatentProfile
from saif_core.records.notes import LatentDescription
from saif_core.records.questions import SaeQuestion
from tests.explained import check_explained
from tests.pages import MAIN, errors, index_words, open_page, planted_work, settle, texts, wait_for
from tests.tiny import DEAD_LATENT, PLANTED_LATENT, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")
EVIL = "<script>alert(1)</script> **bold** [link](http://x)"


@pytest.fixture
def index(tiny_sae_dir: Path, tmp_path: Path) -> LatentIndex:
    return index_words(str(tiny_sae_dir), tmp_path)


def densest(index: LatentIndex) -> LatentProfile:
    row = store().profiles.page(index.id, sort="density", descending=True).rows[0]
    return store().profiles.get(index.id, row.latent)


def badges(at: AppTest) -> str:
    return "\n".join(item.value for item in at.markdown if "-badge[" in item.value)


def press(at: AppTest, label: str) -> AppTest:
    return settle(next(b for b in at.button if b.label == label).click().run())


def links(at: AppTest) -> list[Any]:
    return [link.proto for link in at.get("page_link") if link.proto.query_string.count("latent=")]


def test_without_a_latent_the_page_asks_for_one() -> None:
    at = open_page("latent")
    assert "No latent is chosen yet" in texts(at)
    at.number_input(key="latent_number").set_value(PLANTED_LATENT)
    press(at, "Show this latent")
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)


def test_without_an_index_the_weights_tell_what_it_promotes(tiny_sae_dir: Path) -> None:
    at = open_page("latent", sae=str(tiny_sae_dir), latent=str(PLANTED_LATENT))
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)
    assert "promotes oui" in texts(at)
    assert "No ranking is in hand" in texts(at)
    assert "No corpus has been read through this SAE" in texts(at)
    assert not errors(at)


@pytest.mark.parametrize("latent", ["x", "-1", "1e3", "9" * 12, "<b>"])
def test_an_address_without_a_number_is_answered_with_a_sentence(latent: str) -> None:
    at = open_page("latent", latent=latent)
    assert errors(at) == ["The address names no latent number; choose one here."]


def test_an_address_of_an_sae_that_is_not_offered_is_answered_with_a_sentence() -> None:
    (message,) = errors(open_page("latent", sae=EVIL, latent="1"))
    assert "an SAE that is not offered" in message


def test_a_latent_that_the_sae_lacks_is_answered_with_a_sentence() -> None:
    (message,) = errors(open_page("latent", latent="99999"))
    assert "has latents 0 to 63" in message


def test_a_latent_that_the_index_lacks_is_answered_with_a_sentence(index: LatentIndex) -> None:
    at = open_page("latent", latent="99999")
    (message,) = errors(at)
    assert f"has latents 0 to {index.d_sae - 1}" in message
    # It is no dead end: another can be chosen here, and the next visit does not begin with it.
    at.number_input(key="latent_number").set_value(7)
    settle(next(one for one in at.button if one.label == "Show this latent").click().run())
    assert "What is latent 7?" in texts(at)


def test_with_an_index_the_page_never_calls_the_worker(
    index: LatentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = densest(index)

    def refuse(*_: Any) -> None:
        raise AssertionError("the page asked the worker")

    monkeypatch.setattr(engine(), "submit", refuse)
    at = open_page("latent", latent=str(profile.latent))
    assert not errors(at)
    assert f"What is latent {profile.latent}?" in texts(at)


def test_chips_tell_density_maximum_and_verdict_of_the_profile(
    index: LatentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = densest(index)
    assert profile.s_in is not None
    assert profile.s_out is not None
    found = badges(open_page("latent", latent=str(profile.latent)))
    share = percent(profile.n_fired / index.n_tokens)
    assert f"fires on {share} of {index.n_tokens:,} tokens" in found
    assert f"maximum {profile.maximum:.3g}" in found
    assert "reads or writes: not known" in found
    monkeypatch.setattr(latent_scores, "LEAST_VERDICT_TOKENS", index.n_tokens)
    found = badges(open_page("latent", latent=str(profile.latent)))
    assert verdict(profile.s_in, profile.s_out) in found
    assert f"{profile.s_in:.2f}" in found
    assert f"{percent(profile.n_first / profile.n_fired)} on first tokens" in found


def test_examples_are_the_corpus_with_the_activations_of_the_store(index: LatentIndex) -> None:
    profile = densest(index)
    at = open_page("latent", latent=str(profile.latent))
    strongest, *_ = (item.proto.body for item in at.get("html"))
    assert strongest.count("<mark") == sum(example.kind == 0 for example in profile.examples)
    best = profile.examples[0]
    window = store().profiles.contexts(index.id, [best.context])[best.context]
    window = window[best.start : best.start + len(best.activations)]
    for token, activation in zip(window.tolist(), best.activations, strict=True):
        (word,) = engine().token_texts([token])
        if activation > 0:
            assert re.search(rf'title="activation {activation:.4g}">{re.escape(word)}<', strongest)
    assert f"Strongest (n = {strongest.count('<mark')})" in texts(at)
    assert "drawn at random" in texts(at)


def test_a_latent_that_never_fires_says_so(index: LatentIndex) -> None:
    assert store().profiles.get(index.id, DEAD_LATENT).n_fired == 0
    at = open_page("latent", latent=str(DEAD_LATENT))
    assert f"It fires on none of the {index.n_tokens:,} tokens of this corpus" in texts(at)
    assert "On this corpus it never fires" in texts(at)
    assert not errors(at)


def test_several_indexes_are_offered_and_stand_in_the_address(
    index: LatentIndex, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    (tmp_path / "words.jsonl").rename(folder / "other.jsonl")
    from saif_core.records.corpus import IndexRequest

    lines = (folder / "other.jsonl").read_text().splitlines()[:50]
    (folder / "other.jsonl").write_text("\n".join(lines))
    request = IndexRequest("other", (str(folder / "other.jsonl"),), (str(tiny_sae_dir),))
    (second,) = engine().submit(request).result(timeout=120).indexes
    at = open_page("latent", latent="3", index=index.id)
    assert f"of {index.n_tokens:,} tokens" in badges(at)
    settle(at.selectbox(key="index").set_value(second.id).run())
    assert f"of {second.n_tokens:,} tokens" in badges(at)
    # A smaller corpus takes over nobody's figures: without a choice the largest is shown.
    assert second.n_tokens < index.n_tokens
    for wanted in ({}, {"index": "nonsense"}):
        at = open_page("latent", latent="3", **wanted)
        assert f"of {index.n_tokens:,} tokens" in badges(at)


def test_partners_have_counts_and_lift_of_the_activations_themselves(index: LatentIndex) -> None:
    profile = densest(index)
    other, n_both = profile.cofiring[0]
    fires: dict[int, set[int]] = {profile.latent: set(), other: set()}
    n_tokens = 0
    for block in store().latents.blocks(index.id):
        owners = np.repeat(np.arange(len(block.counts)), block.counts) + n_tokens
        for latent, numbers in fires.items():
            numbers |= set(owners[block.indices == latent].tolist())
        n_tokens += len(block.counts)
    a, b = fires.values()
    assert len(a & b) == n_both
    lift = len(a & b) * n_tokens / (len(a) * len(b))
    at = open_page("latent", latent=str(profile.latent))
    label = f"{other} · {n_both:,} tokens · {percent(len(a & b) / len(a))} · lift {lift:,.1f}"
    assert any(link.label.startswith(label) for link in links(at))


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_are_links_with_the_sae_and_the_latent(
    indexed: bool, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    if indexed:
        index_words(str(tiny_sae_dir), tmp_path)
    at = open_page("latent", latent=str(PLANTED_LATENT))
    near = [link for link in links(at) if "(" in link.label]
    assert len(near) == 10
    expected = engine().decoders.neighbours(
        str(tiny_sae_dir), PLANTED_LATENT, str(tiny_sae_dir), 10
    )
    for link, neighbour in zip(near, expected, strict=True):
        assert f"latent={neighbour.latent}" in link.query_string
        assert "sae=" in link.query_string
        assert link.label.startswith(f"{neighbour.latent} ({neighbour.cosine:+.2f})")
    assert "Only one layer has an SAE here" in texts(at)


def test_a_link_to_a_latent_of_another_sae_changes_the_work_in_hand(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path
) -> None:
    from tests import tiny

    other = tiny.save_sae(tmp_path / "other-sae", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{other}")
    at = open_page("latent", sae=str(tiny_sae_dir), latent="3")
    at.query_params["sae"] = str(other)
    settle(at.run())
    assert at.session_state["work"].sae_id == str(other)
    settle(at.selectbox(key="sidebar_sae").set_value(str(tiny_sae_dir)).run())
    assert at.session_state["work"].sae_id == str(tiny_sae_dir)
    assert not errors(at)


def test_a_flow_is_drawn_and_a_click_opens_the_other_latent(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path
) -> None:
    from tests import tiny

    other = tiny.save_sae(tmp_path / "other-sae", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{other}")
    at = open_page("latent", sae=str(tiny_sae_dir), latent=str(PLANTED_LATENT))
    assert "Lines join decoder directions" in texts(at)
    graph = engine().decoders.flow(str(tiny_sae_dir), PLANTED_LATENT)
    below = next(edge.latent_from for edge in graph.edges if edge.layer_to == 1)
    key = f"latent_flow_{tiny_sae_dir}_{PLANTED_LATENT}"
    at.session_state[key] = {"selection": {"flow_click": [{"layer": 0, "latent": below}]}}
    settle(at.run())
    assert not errors(at)
    assert at.session_state["work"].sae_id == str(other)
    assert f"What is latent {below}?" in texts(at)


def test_joined_latents_are_counted_on_the_same_tokens(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path
) -> None:
    from tests import tiny

    other = tiny.save_sae(tmp_path / "other-sae", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{other}")
    above = index_words(str(tiny_sae_dir), tmp_path)
    fired = store().latents.density(above.id)
    flow = engine().decoders.flow
    latent = next(n for n in range(60) if fired[n] and flow(str(tiny_sae_dir), n).edges)
    at = open_page("latent", sae=str(tiny_sae_dir), latent=str(latent))
    assert "can be counted once all these SAEs read one corpus" in texts(at)
    below = index_words(str(other), tmp_path)
    settle(at.run())
    key = f"latent_coactivation_{tiny_sae_dir}_{latent}"
    settle(at.button(key=key).click().run())
    counted = next(t.value for t in at.dataframe if "lift" in t.value.columns)
    graph = flow(str(tiny_sae_dir), latent)
    assert len(counted) == len(graph.edges)
    fires = {}
    for layer, index in ((0, below), (1, above)):
        blocks = list(store().latents.blocks(index.id))
        dense = np.zeros((index.n_tokens, tiny.D_SAE), dtype=bool)
        counts = np.concatenate([block.counts for block in blocks])
        indices = np.concatenate([block.indices for block in blocks])
        dense[np.repeat(np.arange(index.n_tokens), counts), indices] = True
        fires[layer] = dense
    for edge, line in zip(graph.edges, counted.to_dict("records"), strict=True):
        lower, upper = fires[0][:, edge.latent_from], fires[1][:, edge.latent_to]
        assert line["tokens on which both fire"] == (lower & upper).sum()
    assert counted["tokens on which both fire"].max() > 0


def test_rankings_of_the_session_and_of_the_store_name_instruction_rank_and_n(
    tiny_sae_dir: Path,
) -> None:
    work = planted_work(str(tiny_sae_dir))
    assert work.ranking is not None
    rank = [score.index for score in work.ranking.latents].index(PLANTED_LATENT) + 1
    for at in (
        open_page("latent", work=work, latent=str(PLANTED_LATENT)),
        open_page("latent", latent=str(PLANTED_LATENT)),
    ):
        shown = texts(at)
        assert shown.count(f"· rank {rank} of 64") == 1
        assert "n = 6 pairs" in shown


def test_activations_with_and_without_the_instruction_are_read_when_asked_for(
    tiny_sae_dir: Path,
) -> None:
    at = open_page("latent", work=planted_work(str(tiny_sae_dir)), latent=str(PLANTED_LATENT))
    assert "With the instruction it fires on" not in texts(at)
    settle(at.button(key="latent_pairs_ask").click().run())
    assert "With the instruction it fires on 6 of 6 pairs" in texts(at)
    assert "without it fires on 0 of 6 pairs" in texts(at)
    assert len(at.get("vega_lite_chart")) == 4


def test_a_latent_goes_into_the_basket_with_its_mean_and_out_again(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    at = open_page("latent", work=work, latent=str(PLANTED_LATENT))
    settle(at.button(key="latent_add").click().run())
    score = work.latent_score(PLANTED_LATENT)
    assert score is not None
    assert at.session_state["work"].basket == {PLANTED_LATENT: score.mean}
    settle(at.button(key="latent_remove").click().run())
    assert at.session_state["work"].basket == {}


def test_without_a_ranking_the_corpus_gives_the_coefficient(index: LatentIndex) -> None:
    profile = densest(index)
    at = open_page("latent", latent=str(profile.latent))
    settle(at.button(key="latent_add").click().run())
    assert at.session_state["work"].basket == {profile.latent: profile.mean}


def test_steering_with_one_latent_replaces_the_basket(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    work.add_latent(3, 1.0)
    at = open_page("latent", work=work, latent=str(PLANTED_LATENT))
    settle(at.button(key="latent_steer").click().run())
    assert list(at.session_state["work"].basket) == [PLANTED_LATENT]
    assert "What does it do to the text?" in texts(at)


def test_next_and_previous_follow_the_score(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    assert work.ranking is not None
    first, second = (score.index for score in work.ranking.latents[:2])
    at = open_page("latent", work=work)
    assert f"What is latent {first}?" in texts(at)
    assert at.button(key="latent_previous").disabled
    settle(at.button(key="latent_next").click().run())
    assert f"What is latent {second}?" in texts(at)
    settle(at.button(key="latent_previous").click().run())
    assert f"What is latent {first}?" in texts(at)


def test_a_text_of_ones_own_is_tinted_from_the_planted_word_on() -> None:
    at = open_page("latent", latent=str(PLANTED_LATENT))
    at.text_area(key="latent_own_text").set_value(f"The cat <b> {PLANTED_WORD} sees")
    press(at, "Read it")
    (body,) = (item.proto.body for item in at.get("html"))
    before, after = body.split(PLANTED_WORD)
    assert before.count("title=") == 1  # the planted word itself
    assert after.count("title=") == 1
    assert "<b>" not in body
    assert re.search(r"It fires on 2 of \d+ tokens", texts(at))


def test_an_empty_text_of_ones_own_is_asked_for() -> None:
    at = open_page("latent", latent=str(PLANTED_LATENT))
    press(at, "Read it")
    assert errors(at) == ["There is no text to read; type some."]


def test_token_change_is_measured_when_asked_for(index: LatentIndex) -> None:
    profile = densest(index)
    at = open_page("latent", latent=str(profile.latent))
    assert "Mean change of the logit" not in texts(at)
    settle(at.button(key="latent_token_change_ask").click().run())
    ordinals = [example.context for example in profile.examples if example.kind == 0]
    contexts = store().profiles.contexts(index.id, ordinals)
    assert f"over {sum(map(len, contexts.values())):,} tokens" in texts(at)
    assert f"at activation {profile.quantiles[-1]:.3g}" in texts(at)
    assert "raises\\: " in texts(at)


def test_labels_notes_and_stars_show_who_and_are_removed_by_their_author(
    index: LatentIndex,
) -> None:
    profile = densest(index)
    store().notes.add(index.sae_sha256, profile.latent, "label", EVIL, "Eve")
    at = open_page("latent", latent=str(profile.latent))
    at.text_input(key="latent_note_author").set_value("Ada")
    at.radio(key="latent_note_kind").set_value("note")
    at.text_area(key="latent_note_text").set_value("fires on *nouns*")
    press(at, "Save")
    assert at.text_area(key="latent_note_text").value == ""
    settle(at.button(key="latent_star").click().run())
    notes = store().notes.list(index.sae_sha256, profile.latent)
    assert [(note.kind, note.author) for note in notes] == [
        ("star", "Ada"),
        ("note", "Ada"),
        ("label", "Eve"),
    ]
    shown = texts(at)
    # The newest label is the title of the page, as text.
    assert at.subheader[0].value.startswith("\\<script\\>")
    assert EVIL not in shown
    assert "note · Ada" in shown
    assert "label · Eve" in shown
    assert at.button(key="latent_star").label == "Starred · 1"
    (remove,) = (button for button in at.button if button.label == "Remove")
    settle(remove.click().run())
    settle(at.button(key="latent_star").click().run())
    left = store().notes.list(index.sae_sha256, profile.latent)
    assert [(note.kind, note.author) for note in left] == [("label", "Eve")]


def test_an_empty_label_is_answered_with_a_sentence(index: LatentIndex) -> None:
    latent = densest(index).latent
    at = open_page("latent", latent=str(latent))
    press(at, "Save")
    assert errors(at) == [f"The label of latent {latent} is empty; type one\\."]


def test_stored_descriptions_are_shown_with_scores_as_text(index: LatentIndex) -> None:
    latent = densest(index).latent
    store().notes.add_description(
        LatentDescription(
            index.sae_sha256,
            latent,
            "method",
            EVIL,
            model="a_model",
            prompt="<b>prompt</b>",
            input_score=0.92,
            output_score=2 / 3,
        )
    )
    at = open_page("latent", latent=str(latent))
    shown = texts(at)
    assert EVIL not in shown
    assert "input score 0.92" in shown
    assert "output score 0.67" in shown
    assert "a\\_model" in shown
    assert "set SAIF_LLM_URL" in shown


class Endpoint(NamedTuple):
    """A language endpoint on this machine: what it was asked, and what it waits for."""

    asked: list[str]
    may_answer: threading.Event
    statuses: list[int]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    requests: list[str] = []
    may_answer = threading.Event()
    may_answer.set()
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked = json.loads(body)["messages"][-1]["content"]
            requests.append(asked)
            may_answer.wait(60)
            answer = "the planted word"
            if "sentences" in asked:
                on, off = [f"The cat {PLANTED_WORD} {n}" for n in range(5)], ["The cat sees"] * 5
                answer = json.dumps({"activating": on, "neutral": off})
            elif "number of the set" in asked:
                sets = asked.split("Set ")[1:4]
                answer = str(max(range(3), key=lambda n: sets[n].count("oui")) + 1)
            choice = {"message": {"content": answer}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice]}).encode()
            self.send_response(statuses.pop() if statuses else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("SAIF_LLM_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    monkeypatch.setenv("SAIF_LLM_MODEL", "describer")
    monkeypatch.setenv("SAIF_LLM_KEY", "sk-very-secret")
    try:
        yield Endpoint(requests, may_answer, statuses)
    finally:
        may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


def describing_job() -> Job:
    (job,) = (job for job in engine().jobs() if job.kind == "describe")
    return job


def test_a_description_is_written_tested_and_kept(
    endpoint: Endpoint, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    index = index_words(str(tiny_sae_dir), tmp_path)
    at = open_page("latent", latent=str(PLANTED_LATENT))
    assert at.button(key="latent_describe").label == "Describe with describer"
    at.button(key="latent_describe").click().run()
    job = describing_job()
    wait_for(job)
    job.result()
    settle(at.run())
    (kept,) = store().notes.descriptions(index.sae_sha256, PLANTED_LATENT)
    assert kept.text == "the planted word"
    assert kept.model == "describer"
    assert "oui" in kept.prompt
    assert kept.input_score == 1.0
    assert kept.output_score == 1.0
    assert len(endpoint.asked) == 5
    assert "the planted word" in texts(at)
    assert "output score 1.00" in texts(at)
    assert "sk-very-secret" not in json.dumps(kept.evidence) + kept.prompt + texts(at)
    record = store().jobs.get(job.id)
    assert record is not None
    assert record.state == "done"


def test_the_worker_is_free_while_the_endpoint_answers_and_the_job_can_be_stopped(
    endpoint: Endpoint, index: LatentIndex
) -> None:
    endpoint.may_answer.clear()
    latent = densest(index).latent
    at = open_page("latent", latent=str(latent))
    at.button(key="latent_describe").click().run()
    job = describing_job()
    assert engine().ask(SaeQuestion(index.sae_id)).sha256 == index.sae_sha256
    assert not job.finished()
    assert not [button for button in at.button if button.key == "latent_describe"]
    settle(at.button(key="latent_describe_stop").click().run())
    endpoint.may_answer.set()
    wait_for(job)
    settle(at.run())
    assert store().notes.descriptions(index.sae_sha256, latent) == []
    (message,) = errors(at)
    assert "was stopped" in message


def test_a_description_under_way_is_in_every_sidebar_and_leads_to_its_latent(
    endpoint: Endpoint, index: LatentIndex
) -> None:
    endpoint.may_answer.clear()
    latent = densest(index).latent
    at = open_page("latent", latent=str(latent))
    at.button(key="latent_describe").click().run()
    job = describing_job()
    assert job.id in [record.id for record in engine().status().running]
    other = settle(AppTest.from_file(str(MAIN), default_timeout=60).run())
    shown = [bar.proto.text for bar in other.sidebar.get("progress")]
    assert any(text.startswith(f"Describe latent {latent}\\: asking describer") for text in shown)
    settle(other.sidebar.button(key=f"job_{job.id}").click().run())
    assert f"What is latent {latent}?" in texts(other)
    assert [button for button in other.button if button.key == "latent_describe_stop"]
    assert not errors(other)


def test_a_refusal_of_the_endpoint_is_shown_and_can_be_tried_again(
    endpoint: Endpoint, index: LatentIndex
) -> None:
    endpoint.statuses.append(400)
    at = open_page("latent", latent=str(densest(index).latent))
    at.button(key="latent_describe").click().run()
    job = describing_job()
    wait_for(job)
    settle(at.run())
    (message,) = errors(at)
    assert "with status 400" in message
    assert not at.button(key="latent_describe").disabled


def test_an_endpoint_that_cannot_be_reached_is_answered_with_a_sentence(
    index: LatentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_LLM_URL", "ftp://x")
    monkeypatch.setenv("SAIF_LLM_MODEL", "m")
    at = open_page("latent", latent=str(densest(index).latent))
    settle(at.button(key="latent_describe").click().run())
    (message,) = errors(at)
    assert "URL of the language endpoint cannot be used" in message


def test_what_a_newcomer_cannot_know_is_explained(index: LatentIndex) -> None:
    latent = densest(index).latent
    check_explained(
        open_page("latent", latent=str(latent)),
        latent="What is latent",
        promote="Tokens it promotes|Tokens it suppresses",
        logit="What it does to the vocabulary",
        cosine="Nearest decoder directions",
        flow="Flow through",
        density=":gray-badge[:material/percent:",
    )
    check_explained(open_page("latent", sae="", latent="x"), latent="Latent of")
