"""The sidebar: SAEs, those that cannot be used with the reason, and all work that is under way."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine, store
from app.store_tasks import LabelsRequest, NewLabel
from saif_core.engine.job import Job
from saif_core.engine.worker import QUESTION
from saif_core.records.questions import ContrastRequest, HealthRequest, VectorQuestion
from saif_core.records.ranking import ChosenLatent, RankingRequest
from tests import tiny
from tests.pages import MAIN, errors, open_page, settle, texts

pytestmark = pytest.mark.usefixtures("tiny_process")

MLP = "gpt2-small-mlp-tm:blocks.3.hook_mlp_out"


def captions(at: object) -> str:
    return "\n".join(caption.value for caption in at.sidebar.caption)  # type: ignore[attr-defined]


def test_unusable_saes_are_told_but_not_offered(
    monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    monkeypatch.setenv("SAIF_SAES", f"{tmp_path / 'broken'},{MLP},{tiny_sae_dir}")
    at = open_page("instructions")
    assert len(at.selectbox(key="sidebar_sae").options) == 1
    assert [info.id for info in engine().saes()] == [str(tiny_sae_dir)]
    assert "could not be read as an SAE" in captions(at)
    assert "It reads the output of an MLP" in captions(at)


def test_reason_is_told_where_no_sae_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIF_SAES", MLP)
    at = open_page("instructions")
    assert "No SAE is offered" in at.sidebar.info[0].value
    assert "It reads the output of an MLP" in captions(at)


def test_sae_of_another_model_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_sae_dir, tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["model_name"] = "google/base-pt"
    (folder / "cfg.json").write_text(json.dumps(config))
    monkeypatch.setenv("SAIF_SAES", str(folder))
    at = open_page("instructions")
    assert "was trained on model" in at.sidebar.warning[0].value


@pytest.fixture
def other_sae(
    tiny_process: None,  # noqa: ARG001
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A second SAE, offered after the first."""
    folder = tiny.save_sae(tmp_path / "other-sae", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{folder}")
    return str(folder)


@pytest.fixture
def busy(other_sae: str) -> Iterator[None]:  # noqa: ARG001
    """The engine's worker has something else to do until the test ends."""
    may_go_on = threading.Event()
    engine().worker.put(Job("test", "wait", None, lambda _job: may_go_on.wait(60)), QUESTION)
    try:
        yield
    finally:
        may_go_on.set()


def sessions_page() -> AppTest:
    """A page that asks nothing of the engine, while work is under way."""
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    settle(at.run())
    return settle(at.switch_page("views/sessions.py").run())


def progress(at: AppTest) -> list[str]:
    return [bar.proto.text for bar in at.sidebar.get("progress")]


def go_to(at: AppTest, job: Job) -> AppTest:
    return settle(at.sidebar.button(key=f"job_{job.id}").click().run())


def test_work_that_needs_no_model_is_told_and_leads_to_its_page(
    monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path
) -> None:
    may_go_on = threading.Event()
    monkeypatch.setattr(store().notes, "list", lambda *_: [] if may_go_on.wait(60) else [])
    labels = tuple(NewLabel(n, "a", "N") for n in range(7))
    job = engine().submit(LabelsRequest("sha", labels, str(tiny_sae_dir)))
    try:
        at = sessions_page()
        assert any(text.startswith("Take in 7 labels") for text in progress(at))
        go_to(at, job)
        assert "What was read?" in texts(at)
        assert [button for button in at.button if button.key == "labels_stop"]
    finally:
        may_go_on.set()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    ("kind", "title", "stop"),
    [
        ("rank", "Which instruction?", "rank_stop"),
        ("contrast", "Which latent do you look for?", "contrast_stop"),
        ("vector", "What is in this vector?", "vector_stop"),
        ("health", "Is this SAE any good?", "health_stop"),
    ],
)
def test_a_job_in_the_sidebar_leads_to_the_page_that_shows_it_with_its_sae(
    kind: str,
    title: str,
    stop: str,
    tiny_sae_dir: Path,
    other_sae: str,
) -> None:
    requests: dict[str, Any] = {
        "rank": RankingRequest(other_sae, "translate-to-french", tiny.planted_pairs(2)),
        "contrast": ContrastRequest(other_sae, ("a",) * 4, ("b",) * 4),
        "vector": VectorQuestion(other_sae, latents=(ChosenLatent(3, 1.0),)),
        "health": HealthRequest(other_sae),
    }
    job = engine().submit(requests[kind])
    at = sessions_page()
    assert at.session_state["work"].sae_id == str(tiny_sae_dir)
    go_to(at, job)
    assert title in texts(at)
    assert at.session_state["work"].sae_id == other_sae
    assert [button for button in at.button if button.key == stop]
    assert not errors(at)
