"""Progress counts the work, never passes all of it, and never rests there."""

import pytest

from app.dashboard.jobs.job_progress import progress_words, shown_share
from app.presentation.ranking import compute_words
from saif_core.engine.job import Job
from saif_core.records.jobs import JobRecord
from saif_core.records.ranking import WorkEstimate


@pytest.mark.parametrize(
    ("to_compute", "total", "words"),
    [
        (7636, 7636, "7,636 tokens to compute"),
        (
            5977,
            20210,
            "5,977 of 20,210 tokens to compute; the others are shared between prompts or computed "
            "already",
        ),
    ],
)
def test_what_is_to_be_computed_has_a_reason_only_where_it_is_less_than_all(
    to_compute: int, total: int, words: str
) -> None:
    assert compute_words(WorkEstimate(240, total, to_compute, False)) == words


def test_a_job_never_reports_more_than_all_of_its_work() -> None:
    seen = []

    def work(job: Job) -> None:
        job.step(270_336, 229_376, "training")
        seen.append(job.record)

    Job("train", "Train", None, work).run()
    assert seen[0].done == seen[0].total == 229_376


@pytest.mark.parametrize(("done", "total"), [(0, 0), (1, 4), (4, 4), (7, 4)])
def test_the_bar_is_never_full_while_work_goes_on(done: int, total: int) -> None:
    record = JobRecord(id="1", kind="rank", title="Find", done=done, total=total, message="reading")
    assert 0 <= shown_share(record) < 1
    assert ("finishing" in progress_words(record)) == (total > 0 and done >= total)
