"""The corpus page on the tiny model: reading, resuming, exporting, importing and deleting."""

import json
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.corpus.indexes import take_in_shipped
from app.dashboard.corpus.uploads import save_uploads, uploads_of
from app.dashboard.handles import engine, store
from app.store_tasks import LabelsReport, LabelsRequest, NewLabel, vectors_file
from saif_core.engine.job import Job
from saif_core.engine.worker import BATCH
from saif_core.errors import CorpusError, StorageError
from saif_core.records.corpus import IndexRequest, LatentIndex
from saif_core.records.questions import ModelQuestion, SaeQuestion
from tests.explained import check_explained
from tests.pages import errors, index_words, open_page, settle, texts, wait_for
from tests.tiny import D_SAE

pytestmark = pytest.mark.usefixtures("tiny_process")
LINES = "the old cat sees a dog in the house\none two three big red sun\n" * 20


class File:
    """An upload, as Streamlit hands it over."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    def getbuffer(self) -> memoryview:
        return memoryview(self._data)


@pytest.fixture
def index(tiny_process: None, tiny_sae_dir: Path, tmp_path: Path) -> LatentIndex:  # noqa: ARG001
    return index_words(str(tiny_sae_dir), tmp_path)


def press(at: AppTest, label: str) -> AppTest:
    (button,) = (button for button in at.button if button.label == label)
    return settle(button.click().run())


def choose(at: AppTest, row: int = 0) -> AppTest:
    (frame,) = at.dataframe
    selection = {"rows": [row], "columns": [], "cells": []}
    at.session_state[frame.key] = {"selection": selection}
    return settle(at.run())


def run_job(kind: str = "index") -> Job:
    job = next(job for job in engine().jobs() if job.kind == kind)
    wait_for(job)
    return job


def test_without_an_index_the_page_says_what_to_do() -> None:
    at = open_page("corpus")
    assert "No corpus was read yet" in texts(at)
    assert not at.dataframe


def test_the_list_has_the_figures_of_the_store(index: LatentIndex) -> None:
    at = open_page("corpus")
    shown = at.dataframe[0].value
    assert shown["name"].tolist() == ["words"]
    assert shown["tokens"].tolist() == [index.n_tokens]
    assert shown["contexts"].tolist() == [200]
    assert shown["L0"].tolist() == [index.n_nonzero / index.n_tokens]
    assert shown["state"].tolist() == ["finished"]
    assert "Choose a row" in texts(at)
    choose(at)
    assert f"{index.n_tokens:,} tokens in 200 contexts" in texts(at)
    settle(at.button(key="corpus_search").click().run())
    assert "Which latent do you look for?" in texts(at)
    assert len(at.dataframe[0].value) == 50


def test_uploads_are_read_through_the_chosen_sae(tiny_sae_dir: Path) -> None:
    at = open_page("corpus")
    at.file_uploader(key="corpus_files").set_value(
        [
            ("../../b <script>.txt", LINES.encode(), "text/plain"),
            ("a.jsonl", json.dumps({"text": "a dog in the sun"}).encode(), "application/json"),
        ]
    )
    at.text_input(key="corpus_name").set_value("**mine** <script>")
    press(at, "Read it")
    assert run_job().error is None
    settle(at.run())
    (made,) = store().latents.indexes()
    assert (made.name, made.sae_id, made.finished) == ("**mine** <script>", str(tiny_sae_dir), True)
    assert "<script>" not in texts(at)
    folder = uploads_of(made)
    assert folder is not None
    assert sorted(file.name for file in folder.iterdir()) == ["001-b-script.txt", "002-a.jsonl"]
    assert [path.name for path in folder.parent.iterdir()] == [made.source_sha256]
    assert "done" in "".join(item.value for item in at.success)


def test_without_files_the_form_says_so() -> None:
    at = open_page("corpus")
    press(at, "Read it")
    (message,) = errors(at)
    assert "no file or no SAE was chosen" in message
    assert not store().latents.indexes()


def test_a_file_that_cannot_be_read_ends_in_a_sentence() -> None:
    at = open_page("corpus")
    at.file_uploader(key="corpus_files").set_value([("x.jsonl", b"no json", "text/plain")])
    press(at, "Read it")
    run_job()
    settle(at.run())
    (message,) = errors(at)
    assert "is no JSON" in message


def test_an_unfinished_index_is_resumed_from_the_files_kept(tiny_sae_dir: Path) -> None:
    folder = save_uploads([File("a.txt", LINES.encode())])
    model = engine().ask(ModelQuestion())
    sae = engine().ask(SaeQuestion(str(tiny_sae_dir)))
    store().latents.open_index(
        "begun", model.sha256, sae.sha256, sae.d_sae, sae.hook_point, sae.sae_id, folder.name
    )
    at = choose(open_page("corpus"))
    assert "unfinished" in at.dataframe[0].value["state"].tolist()
    settle(at.button(key="corpus_resume").click().run())
    assert run_job().error is None
    (made,) = store().latents.indexes()
    assert made.finished
    assert made.n_tokens > 0
    other = open_page("corpus")
    assert other.dataframe[0].value["state"].tolist() == ["finished"]


def test_an_unfinished_index_without_its_files_says_how_to_go_on(tiny_sae_dir: Path) -> None:
    store().latents.open_index("far", "m", "s", 8, "", str(tiny_sae_dir), "../../etc")
    at = choose(open_page("corpus"))
    assert "when the same files are read again" in texts(at)
    assert not [button for button in at.button if button.key == "corpus_resume"]


def test_a_stopped_reading_says_how_to_go_on(tiny_sae_dir: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "words.txt"
    corpus.write_text(LINES)
    goes_on = threading.Event()
    sae_ids = (str(tiny_sae_dir),)
    engine().worker.put(Job("test", "wait", None, lambda _job: goes_on.wait(60)), BATCH)
    job = engine().submit(IndexRequest("words", (str(corpus),), sae_ids))
    job.cancel()
    goes_on.set()
    wait_for(job)
    at = open_page("corpus")
    assert "Index words was stopped" in texts(at)
    assert "resume it" in texts(at)


def test_an_index_goes_with_its_files_and_embeddings_after_a_second_look(
    tiny_sae_dir: Path, saif_home: Path
) -> None:
    folder = save_uploads([File("a.txt", LINES.encode())])
    request = IndexRequest("mine", (str(folder),), (str(tiny_sae_dir),))
    (made,) = engine().submit(request).result(timeout=60).indexes
    vectors = vectors_file(saif_home.resolve(), made.id)
    vectors.parent.mkdir(parents=True)
    vectors.write_bytes(b"x")
    at = choose(open_page("corpus"))
    assert store().latents.indexes()
    assert [item.value for item in at.success] == ["Index mine: done."]
    settle(at.button(key="corpus_delete_sure").click().run())
    assert not at.success
    assert not store().latents.indexes()
    assert not folder.exists()
    assert not vectors.exists()
    assert "No corpus was read yet" in texts(at)


def test_an_exported_index_comes_back_by_upload(index: LatentIndex) -> None:
    data = store().profiles.export(index.id)
    profile = store().profiles.get(index.id, 7)
    store().latents.delete_index(index.id)
    at = open_page("corpus")
    at.file_uploader(key="corpus_import").upload("words.index", data)
    press(at, "Import")
    assert at.dataframe[0].value["name"].tolist() == ["words"]
    assert store().profiles.get(index.id, 7).maximum == profile.maximum
    at.file_uploader(key="corpus_import").upload("words.index", data)
    press(at, "Import")
    assert "That index is here already" in texts(at)


class Bar:
    """A progress bar that keeps what it was told."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.texts: list[str] = []
        self.is_gone = False

    def progress(self, share: float, text: str) -> None:
        self.shares.append(share)
        self.texts.append(text)

    def empty(self) -> None:
        self.is_gone = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars of imports; others are those of jobs."""
    drawn: list[Bar] = []

    def draw(share: float, text: str) -> Bar:
        bar = Bar()
        bar.progress(share, text)
        if text.endswith("index"):
            drawn.append(bar)
        return bar

    monkeypatch.setattr("app.dashboard.jobs.job_progress.st.progress", draw)
    return drawn


def check_bar(bar: Bar) -> None:
    assert bar.is_gone
    assert bar.shares == sorted(bar.shares)
    assert bar.shares[0] == 0 < bar.shares[-1] < 1
    assert "latents so far" in bar.texts[-1]


def test_an_import_shows_how_far_it_is(index: LatentIndex, bars: list[Bar]) -> None:
    data = store().profiles.export(index.id)
    store().latents.delete_index(index.id)
    at = open_page("corpus")
    at.file_uploader(key="corpus_import").upload("words.index", data)
    press(at, "Import")
    (bar,) = bars
    check_bar(bar)
    assert "words\\.index" in bar.texts[0]


def test_a_shipped_index_shows_how_far_it_is_and_is_taken_in_once(
    index: LatentIndex, bars: list[Bar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shipped.index"
    file.write_bytes(store().profiles.export(index.id))
    store().latents.delete_index(index.id)
    monkeypatch.setattr("app.dashboard.corpus.indexes.shipped_index", lambda _sae_id: file)
    at = open_page("corpus")
    (bar,) = bars
    check_bar(bar)
    assert at.dataframe[0].value["name"].tolist() == ["words"]
    settle(at.run())
    assert len(bars) == 1


def test_a_shipped_index_whose_import_failed_is_taken_in_at_the_next_look(
    index: LatentIndex, bars: list[Bar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shipped.index"
    file.write_bytes(b"nonsense")
    monkeypatch.setattr("app.dashboard.corpus.indexes.shipped_index", lambda _sae_id: file)
    with pytest.raises(StorageError):
        take_in_shipped(index.sae_id)
    data = store().profiles.export(index.id)
    store().latents.delete_index(index.id)
    file.write_bytes(data)
    take_in_shipped(index.sae_id)
    assert [bar.is_gone for bar in bars] == [True, True]
    assert [one.id for one in store().latents.indexes()] == [index.id]


def test_a_damaged_index_is_answered_with_a_sentence() -> None:
    at = open_page("corpus")
    at.file_uploader(key="corpus_import").upload("words.index", b"nonsense")
    press(at, "Import")
    (message,) = errors(at)
    assert "not a whole file that SAIF exported" in message


def test_labels_for_an_sae_without_a_source_are_refused() -> None:
    at = open_page("corpus")
    entry = {"modelId": "m", "layer": "l", "index": 1, "description": "d"}
    at.file_uploader(key="corpus_labels").upload("labels.json", json.dumps([entry]).encode())
    press(at, "Take the labels in")
    (message,) = errors(at)
    assert "has no Neuronpedia id" in message


def test_published_labels_of_the_sae_are_taken_in(
    tiny_sae_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = tmp_path / "known-sae"
    sae.mkdir()
    for file in tiny_sae_dir.iterdir():
        (sae / file.name).write_bytes(file.read_bytes())
    config = json.loads((sae / "cfg.json").read_text())
    config["metadata"]["neuronpedia_id"] = "tiny/1-res"
    (sae / "cfg.json").write_text(json.dumps(config))
    monkeypatch.setenv("SAIF_SAES", str(sae))
    entry = {"modelId": "tiny", "layer": "1-res", "index": 5, "description": "*old* cats"}
    odd = entry | {"index": D_SAE}
    at = open_page("corpus")
    at.file_uploader(key="corpus_labels").upload("l.json", json.dumps([entry, odd]).encode())
    press(at, "Take the labels in")
    (warning,) = at.warning
    assert warning.value.startswith("Entries left out: 1 (")
    assert f"the index '{D_SAE}' is not one of 0 to {D_SAE - 1}" in warning.value
    sha256 = engine().ask(SaeQuestion(str(sae))).sha256
    run_job("labels")
    settle(at.run())
    (note,) = store().notes.list(sha256, 5)
    assert (note.kind, note.text, note.source) == ("label", "*old* cats", "Neuronpedia")
    assert "Labels: 1 added, 0 here already" in "".join(s.value for s in at.success)


def test_labels_are_added_once_and_long_ones_are_cut() -> None:
    request = LabelsRequest("sha", (NewLabel(1, "a", "N"), NewLabel(2, "b" * 300, "N")))
    results = [engine().ask(request) for _ in range(2)]
    assert results == [LabelsReport(2, 0, 1), LabelsReport(0, 2, 0)]
    (note,) = store().notes.list("sha", 2)
    assert note.text == "b" * 199 + "…"


def test_the_same_files_share_a_folder_and_names_stay_in_it(saif_home: Path) -> None:
    first = save_uploads([File("../../x.TXT", b"one")])
    assert save_uploads([File("other name.txt", b"one")]) == first
    assert first.parent == saif_home.resolve() / "uploads"
    assert [file.name for file in first.iterdir()] == ["001-x.txt"]
    assert save_uploads([File("x.txt", b"two")]) != first
    with pytest.raises(CorpusError, match="not read"):
        save_uploads([File("x.exe", b"")])
    assert len(list(first.parent.iterdir())) == 2


@pytest.mark.usefixtures("index")
def test_what_a_newcomer_cannot_know_is_explained() -> None:
    check_explained(
        open_page("corpus"),
        corpus="Read another corpus",
        SAE="SAE|Read through",
        token="tokens",
        context="contexts",
        L0="L0",
        index="Import an index",
    )
