import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.charts.vector import explained_chart
from app.dashboard import work as work_module
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.vector import atom_table, change_table, explained_sentence, naive_sentence
from saif_core.engine.job import Job
from saif_core.errors import SteeringError
from saif_core.records.questions import VectorQuestion
from saif_core.records.ranking import ChosenLatent
from saif_core.records.vectors import Decomposition, LatentChange, NaiveEncoding, VectorReport
from tests.explained import check_explained
from tests.pages import errors, open_page, planted_work, settle, texts, wait_for
from tests.tiny import D_MODEL, PLANTED_LATENT, plant_direction

pytestmark = pytest.mark.usefixtures("tiny_process")


def take_apart(at: AppTest, button: Any) -> Job:
    """Press a button that queues the work, and show the page after it has ended."""
    settle(button.click().run())
    job = engine().job(at.session_state["vector_job"])
    assert job is not None
    wait_for(job)
    settle(at.run())
    return job


def choose_source(at: AppTest, source: str) -> AppTest:
    at.segmented_control(key="vector_source").set_value(source)
    return settle(at.run())


def upload(at: AppTest, name: str, array: np.ndarray) -> Any:
    """Choose a file; the button that takes it apart."""
    stream = io.BytesIO()
    np.save(stream, array)
    at.file_uploader(key="vector_file").upload(name, stream.getvalue(), "application/octet-stream")
    return next(button for button in at.button if button.label == "Take it apart")


def frames(at: AppTest) -> list[dict[str, list[Any]]]:
    return [frame.value.to_dict("list") for frame in at.dataframe]


def test_without_a_ranking_or_a_basket_the_page_says_what_to_do() -> None:
    at = open_page("vector")
    assert "No ranking is in hand" in texts(at)
    assert "The basket is empty" in texts(choose_source(at, "basket"))
    choose_source(at, "file")
    submit = next(button for button in at.button if button.label == "Take it apart")
    settle(submit.click().run())
    assert "Choose a .npy or .safetensors file first." in texts(at)
    assert not errors(at)


def test_the_vector_of_an_instruction_is_shown_with_its_figures(tiny_sae_dir: Path) -> None:
    at = open_page("vector", work=planted_work(str(tiny_sae_dir)))
    assert "n = 6 pairs" in texts(at)
    job = take_apart(at, at.button(key="vector_from_pairs"))
    report: VectorReport = job.result()
    assert f"raw norm {report.norm:,.1f}" in texts(at)
    assert f"{report.naive.norm_share:.0%} of the residual norm" in texts(at)
    assert "n = 6 prompts" in texts(at)
    atoms, changes = frames(at)
    assert atoms["latent"][0] == changes["latent"][0] == PLANTED_LATENT
    assert atoms["coefficient"] == [a.coefficient for a in report.first_atoms(15)]
    assert "oui" in atoms["promotes"][0]
    assert naive_sentence(report.naive) in [warning.value for warning in at.warning]
    assert not errors(at)


def test_the_first_atoms_go_into_the_basket_with_their_coefficients(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    work.add_latent(3, 9.0)
    at = open_page("vector", work=work)
    job = take_apart(at, at.button(key="vector_from_pairs"))
    at.number_input(key=f"vector_k_{job.id}").set_value(2)
    settle(at.run())
    settle(at.button(key="vector_to_basket").click().run())
    expected = {atom.index: atom.coefficient for atom in job.result().first_atoms(2)}
    assert at.session_state["work"].basket == expected
    assert frames(at)[0]["latent"] == list(expected)


def test_an_uploaded_vector_is_taken_apart_and_can_be_downloaded() -> None:
    at = choose_source(open_page("vector"), "file")
    vector = 2.5 * plant_direction().numpy()
    report: VectorReport = take_apart(at, upload(at, "mine.npy", vector)).result()
    assert report.pursuit.atoms == (ChosenLatent(PLANTED_LATENT, pytest.approx(2.5)),)
    assert "all 1 explain 100.0%" in texts(at)
    assert "n = 64 prompts" in texts(at)  # shipped contents, as there is no ranking
    (download,) = at.get("download_button")
    assert download.proto.label == "Download the vector"


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("short.npy", np.zeros(3, np.float32), f"needs \\[{D_MODEL}\\]"),
        ("<script>.npy", np.full(D_MODEL, np.nan, np.float32), "\\<script\\>\\.npy"),
    ],
)
def test_a_file_that_holds_no_vector_is_refused_before_a_job_starts(
    name: str, array: np.ndarray, words: str
) -> None:
    at = choose_source(open_page("vector"), "file")
    settle(upload(at, name, array).click().run())
    (message,) = errors(at)
    assert words in message
    assert engine().newest("vector") is None


def test_a_vector_of_zeros_is_answered_with_a_sentence() -> None:
    at = choose_source(open_page("vector"), "file")
    take_apart(at, upload(at, "zero.npy", np.zeros(D_MODEL, np.float32)))
    (message,) = errors(at)
    assert "zero everywhere" in message


def test_tensors_that_hold_no_vector_of_the_model_are_refused_by_the_engine(
    tiny_sae_dir: Path,
) -> None:
    for tensors in ({"vector": np.ones(3, np.float32)}, {"other": np.ones(D_MODEL, np.float32)}):
        question = VectorQuestion(str(tiny_sae_dir), tensors=store().tensors.put(tensors))
        with pytest.raises(SteeringError, match=f"hold none of {D_MODEL} numbers called 'vector'"):
            engine().ask(question)


def test_the_basket_comes_apart_into_its_latents(tiny_sae_dir: Path) -> None:
    work = Work(sae_id=str(tiny_sae_dir))
    work.add_latent(PLANTED_LATENT, 3.0)
    at = choose_source(open_page("vector", work=work), "basket")
    report: VectorReport = take_apart(at, at.button(key="vector_from_basket")).result()
    assert report.pursuit.atoms == (ChosenLatent(PLANTED_LATENT, pytest.approx(3.0)),)
    assert report.norm == pytest.approx(3.0)


def test_steering_with_a_vector_hands_it_to_compare_as_an_arm() -> None:
    at = choose_source(open_page("vector"), "file")
    vector = 2.5 * plant_direction().numpy()
    take_apart(at, upload(at, "mine.npy", vector))
    settle(at.button(key="vector_steer").click().run())
    assert "What does it do to the text?" in texts(at)
    assert "a vector after block 1" in texts(at)
    assert not errors(at)


def test_an_arm_handed_over_holds_the_whole_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(work_module, "open_page", opened.append)
    at = choose_source(open_page("vector"), "file")
    vector = 2.5 * plant_direction().numpy()
    take_apart(at, upload(at, "mine.npy", vector))
    settle(at.button(key="vector_steer").click().run())
    assert opened == ["views/compare.py"]
    (arm,) = at.session_state["compare_incoming"]
    (edit,) = arm.edits
    assert (arm.kind, edit.layer, edit.latents) == ("steered", 1, ())
    np.testing.assert_array_equal(store().tensors.get(edit.tensors)["vector"], vector)


def test_a_click_on_an_atom_opens_its_latent(tiny_sae_dir: Path) -> None:
    at = open_page("vector", work=planted_work(str(tiny_sae_dir)))
    job = take_apart(at, at.button(key="vector_from_pairs"))
    key = f"vector_atoms_{job.id}_{len(frames(at)[0]['latent'])}"
    at.session_state[key] = {"selection": {"rows": [], "columns": [], "cells": [[0, "latent"]]}}
    settle(at.run())
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)


@pytest.mark.parametrize("job_id", ["x", "<script>", "0" * 400])
def test_an_address_of_an_unknown_vector_is_answered_with_a_sentence(job_id: str) -> None:
    at = open_page("vector", vector=job_id)
    assert "not known here; take it apart again" in texts(at)
    assert "<script>" not in texts(at)


def report() -> VectorReport:
    return VectorReport(
        vector=(1.0, 2.0),
        norm=5.0,
        n_prompts=4,
        pursuit=Decomposition((ChosenLatent(9, 3.0), ChosenLatent(4, -1.0)), (0.75, 0.9)),
        fits=((2.5,), (3.0, -1.0)),
        changes=(LatentChange(4, -2.0),),
        naive=NaiveEncoding((), (), None, 0.1),
        promoted={9: (" oui", "<b>"), 4: ("\n",)},
    )


def test_the_chart_holds_explained_norm_by_number_of_atoms() -> None:
    curve, cut = explained_chart(report(), 1).layer
    points = [(row["atoms"], row["explained"], row["latent"]) for row in curve.data.values]
    assert points == [(1, 0.75, 9), (2, 0.9, 4)]
    assert cut.data.values == [{"atoms": 1}]


def test_tables_and_sentences_tell_the_cut() -> None:
    assert atom_table(report(), 1) == {
        "latent": [9],
        "coefficient": [2.5],
        "explained": [75.0],
        "promotes": ["oui · <b>"],
    }
    assert atom_table(report(), 2)["coefficient"] == [3.0, -1.0]
    assert change_table(report()) == {"latent": [4], "change": [-2.0], "promotes": ["↵"]}
    assert "the first 1 explain 75.0% and all 2 explain 90.0%" in explained_sentence(report(), 1)
    assert explained_sentence(report(), 2) == "Of the squared norm, all 2 explain 90.0%."


def test_an_encoding_that_is_the_encoders_bias_is_called_meaningless() -> None:
    top = tuple(ChosenLatent(index, 1.0) for index in range(4))
    assert "meaningless" in naive_sentence(NaiveEncoding(top, top, 0.5, 0.1))
    assert "2 fire as well" in naive_sentence(NaiveEncoding(top, top, 0.5, 0.1))
    assert "meaningless" not in naive_sentence(NaiveEncoding(top, top, 0.25, 0.1))
    assert "no latent fires on it" in naive_sentence(NaiveEncoding((), top, None, 0.1))


def test_what_a_newcomer_cannot_know_is_explained(tiny_sae_dir: Path) -> None:
    at = open_page("vector", work=planted_work(str(tiny_sae_dir)))
    take_apart(at, at.button(key="vector_from_pairs"))
    check_explained(
        at,
        latent="latent|The latents",
        coefficient="coefficient",
        promote="promotes",
        atom="First k atoms",
        steering_vector="Where the vector comes from",
        decoder_direction="The latents",
        latent_activation="mean change",
    )
