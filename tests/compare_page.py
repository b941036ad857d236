"""The Compare page as tests use it: opened with latents in hand, filled in and run."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.lab_arms import LabArm
from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.handles import engine
from app.dashboard.work import Work
from saif_core.engine.job import Job
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


def add_arm(at: AppTest, choice: str) -> LabArm:
    settle(at.menu_button(key="compare_add_arm").set_value(choice).run())
    return form_of(at).arms[-1]


def form_of(at: AppTest) -> SteeringForm:
    form: SteeringForm = at.session_state["compare_form"]
    return form


def set_in(at: AppTest, kind: str, lab: LabArm, field: str, value: object) -> None:
    settle(getattr(at, kind)(key=f"arm_{lab.uid}_{field}").set_value(value).run())
