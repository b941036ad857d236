"""The dashboard without a browser, on the tiny model: pages are run by Streamlit's AppTest."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import end_process, engine
from app.dashboard.work import Work
from saif_core.engine.job import Job
from saif_core.records.corpus import IndexRequest, LatentIndex
from saif_core.records.questions import IndexReport
from saif_core.records.ranking import RankingRequest
from tests import tiny

MAIN = Path(__file__).parent.parent / "app" / "dashboard" / "main.py"


@contextmanager
def one_process() -> Iterator[None]:
    """What one server process keeps, the engine above all, ends with the test."""
    _forget_all()
    try:
        yield
    finally:
        _forget_all()


def _forget_all() -> None:
    end_process()
    st.cache_resource.clear()
    st.cache_data.clear()


def open_page(page: str, *, work: Work | None = None, **query: str) -> AppTest:
    """A browser session that goes to a page of ``app/dashboard/views``, with query parameters."""
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    settle(at.run())
    # A page that opens queues the loading of the model, and its end redraws the page.
    while engine().status().running:
        time.sleep(0.02)
    if work is not None:
        at.session_state["work"] = work
    at.switch_page(f"views/{page}.py")
    for name, value in query.items():
        at.query_params[name] = value
    return settle(at.run())


def settle(at: AppTest) -> AppTest:
    """The page after a run, which must not have failed."""
    assert not at.exception, (at.exception[0].message, at.exception[0].stack_trace)
    return at


def planted_work(sae_id: str, *, n_pairs: int = 6) -> Work:
    """Work with a finished ranking of the planted instruction, computed by the engine."""
    request = RankingRequest(
        sae_id=sae_id,
        instruction="translate-to-french",
        pairs=tiny.planted_pairs(n_pairs),
        read="last-token",
        top=1,
    )
    job = engine().submit(request)
    work = Work(sae_id=sae_id)
    work.keep_ranking(job.id, request, job.result(timeout=60))
    return work


def wait_for(job: Job) -> None:
    """Until a job has ended, one way or another."""
    deadline = time.monotonic() + 60
    while not job.finished():
        assert time.monotonic() < deadline, job.record
        time.sleep(0.02)


def errors(at: AppTest) -> list[str]:
    """What the page reports as gone wrong."""
    return [element.value for element in at.error]


def texts(at: AppTest) -> str:
    """All HTML, Markdown, captions and plain texts of the page, to search in."""
    groups: list[Any] = [at.title, at.subheader, at.markdown, at.caption, at.text, at.info]
    groups += [at.warning, at.success, at.get("html")]
    return "\n".join(
        str(getattr(item, "value", None) or item.proto.body) for group in groups for item in group
    )


def index_words(sae_id: str, folder: Path) -> LatentIndex:
    """A finished corpus index of some 200 short texts, read through one SAE by the engine."""
    words = "the old cat sees a dog in house one two three big red sun".split()
    draw = random.Random(0)
    lines = [" ".join(draw.choices(words, k=draw.randint(2, 50))) for _ in range(200)]
    corpus = folder / "words.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    request = IndexRequest("words", (str(corpus),), (sae_id,))
    report = engine().submit(request).result(timeout=120)
    assert isinstance(report, IndexReport)
    (index,) = report.indexes
    return index
