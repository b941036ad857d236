"""The Compare page as tests use it: opened with latents in hand, filled in and run."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.compare_arms import CompareArm
from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.handles import engine
from app.dashboard.work import Work
from saif_core.engine.job import Job
from saif_core.records.saes import layers_of
from saif_core.records.steering import GenerationRequest
from tests.pages import open_page, planted_work, settle, wait_for
from tests.tiny import PLANTED_LATENT


@pytest.fixture
def steering_work(tiny_sae_dir: Path) -> Work:
    """A ranking in hand and its best latent, the planted one, in the basket."""
    work = planted_work(str(tiny_sae_dir))
    score = work.latent_score(PLANTED_LATENT)
    assert score is not None
    work.add_latent(PLANTED_LATENT, score.mean)
    return work


def open_compare(work: Work, **query: str) -> AppTest:
    at = open_page("compare", work=work, **query)
    at.text_area(key="compare_prompt").set_value("The old cat sees the house.")
    at.number_input(key="compare_max_new_tokens").set_value(8)
    return settle(at.run())


def generate(at: AppTest) -> Job:
    settle(at.button(key="compare_generate").click().run())
    job = engine().job(at.session_state["compare_run"])
    assert job is not None
    return job


def generate_and_wait(at: AppTest) -> Job:
    job = generate(at)
    wait_for(job)
    settle(at.run())
    return job


def add_arm(at: AppTest, choice: str) -> CompareArm:
    settle(at.menu_button(key="compare_add_arm").set_value(choice).run())
    return form_of(at).arms[-1]


def add_source(at: AppTest, source: str) -> CompareArm:
    """Add an arm of a source, and wait until it has made what it can."""
    add_arm(at, f"source:{source}")
    return made(at)


def made(at: AppTest) -> CompareArm:
    """The last arm, once the source that was asked for it is done."""
    arm = form_of(at).arms[-1]
    job = engine().job(arm.job_id) if arm.job_id else None
    if job is not None:
        wait_for(job)
        settle(at.run())
    return form_of(at).arms[-1]


def form_of(at: AppTest) -> SteeringForm:
    form: SteeringForm = at.session_state["compare_form"]
    return form


def request_of(at: AppTest) -> GenerationRequest:
    """What the page would ask for now."""
    work: Work = at.session_state["work"]
    return form_of(at).request(work, layers_of(engine().saes()).get(work.sae_id, 0))


def set_in(at: AppTest, kind: str, arm: CompareArm, field: str, value: object) -> None:
    settle(getattr(at, kind)(key=f"arm_{arm.uid}_{field}").set_value(value).run())
