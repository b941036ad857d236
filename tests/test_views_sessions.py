import hashlib
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine, store
from app.presentation.session_files import export_session, import_session
from saif_core.records.ranking import ChosenLatent
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import UNSTEERED, Arm, Edit
from storage import open_store
from tests import saved
from tests.pages import MAIN, errors, open_page, settle, texts

pytestmark = pytest.mark.usefixtures("tiny_process")


@pytest.fixture
def session(tiny_sae_dir: Path) -> SteeringSession:
    return store().sessions.save(saved.session(sae=str(tiny_sae_dir)))


def choose(at: AppTest, row: int = 0) -> AppTest:
    """Click a row of the table."""
    ids = "\n".join(summary.id for summary in store().sessions.list())
    key = f"sessions_table_{hashlib.sha256(ids.encode()).hexdigest()[:12]}"
    at.session_state[key] = {"selection": {"rows": [row], "columns": [], "cells": []}}
    return settle(at.run())


def press(at: AppTest, label: str) -> AppTest:
    button = next(button for button in at.button if button.label == label)
    return settle(button.click().run())


def test_with_no_sessions_the_page_says_what_to_do() -> None:
    assert "No session is saved yet" in texts(open_page("sessions"))


def test_the_table_lists_sessions_and_the_search_narrows_it(session: SteeringSession) -> None:
    other = store().sessions.save(SteeringSession("Other"))
    at = open_page("sessions")
    assert set(at.dataframe[0].value["name"]) == {session.name, other.name}
    settle(at.text_input(key="sessions_search").set_value("capitals").run())
    assert list(at.dataframe[0].value["name"]) == [session.name]
    settle(at.text_input(key="sessions_search").set_value("nothing like it").run())
    assert "No session matches" in texts(at)


def test_open_takes_the_session_to_the_compare_page(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    settle(at.button(key="sessions_open").click().run())
    assert "What does it do to the text?" in texts(at)
    assert at.session_state["work"].basket == {7: 2.5, 3: 1.5}
    assert at.session_state["work"].ranking == session.ranking
    assert at.session_state["compare_opened"] == session


def test_rename_changes_the_name_and_refuses_an_empty_one(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    at.text_input(key=f"sessions_name_{session.id}").set_value("   ")
    press(at, "Rename")
    assert errors(at) == ["A session needs a name; write one."]
    at.text_input(key=f"sessions_name_{session.id}").set_value(" New  name ")
    press(at, "Rename")
    assert store().sessions.get(session.id).name == "New name"
    assert at.dataframe[0].value["name"][0] == "New name"


def test_duplicate_makes_a_second_session_and_chooses_it(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    settle(at.button(key="sessions_duplicate").click().run())
    assert len(store().sessions.list()) == 2
    assert at.session_state["sessions_selected"] != session.id
    assert f"{session.name} (copy)".replace("(", r"\(").replace(")", r"\)") in texts(at)


def test_a_deleted_session_comes_back_by_undo(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    settle(at.button(key="sessions_delete").click().run())
    assert store().sessions.list() == []
    assert "was deleted" in texts(at)
    settle(at.button(key="sessions_undo").click().run())
    assert [summary.id for summary in store().sessions.list()] == [session.id]
    assert "was deleted" not in texts(at)
    assert at.session_state["sessions_selected"] == session.id


def test_a_link_is_made_shown_and_withdrawn(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    assert not at.code
    settle(at.toggle(key=f"sessions_share_{session.id}").set_value(True).run())
    share_id = store().sessions.get(session.id).share_id
    assert share_id is not None
    assert at.code[0].value.endswith(f"/?session={share_id}")
    settle(at.toggle(key=f"sessions_share_{session.id}").set_value(False).run())
    assert not at.code
    assert store().sessions.get_shared(share_id) is None


def test_export_is_offered_under_a_safe_name(session: SteeringSession) -> None:
    at = choose(open_page("sessions"))
    assert [button.label for button in at.download_button] == ["Export"]
    assert session.share_id is None


def test_an_exported_file_is_imported_and_chosen(session: SteeringSession) -> None:
    at = open_page("sessions")
    data = export_session(session).encode()
    at.file_uploader(key="sessions_upload").upload("s.json", data, "application/json")
    press(at, "Import")
    assert "Imported “Capitals\\, first try”".replace("\\,", ",") in texts(at)
    imported = [s for s in store().sessions.list() if s.id != session.id]
    assert [s.name for s in imported] == [session.name]
    again = store().sessions.get(imported[0].id)
    assert again.result == session.result


def with_a_vector() -> SteeringSession:
    """A session with an arm that steers with a vector."""
    vector = store().tensors.put({"vector": np.full(32, 0.5, dtype=np.float32)})
    request = saved.request()
    learned = Arm("*learned*", edits=(Edit(1, tensors=vector),), strength=0.4)
    recipe = replace(
        saved.recipe(), request=replace(request, arms=(UNSTEERED, learned, request.arms[1]))
    )
    return replace(saved.session(name="Learned"), recipe=recipe, result=None)


def test_a_session_with_a_vector_is_exported_whole_and_imported(tmp_path: Path) -> None:
    session = with_a_vector()
    data = export_session(session, store().tensors).encode()
    with closing(open_store(f"sqlite:///{tmp_path}/empty.db")) as elsewhere:
        again = import_session(data, filename="s.json", tensors=elsewhere.tensors)
        assert again.recipe == session.recipe
    at = open_page("sessions")
    at.file_uploader(key="sessions_upload").upload("s.json", data, "application/json")
    press(at, "Import")
    settle(at.run())
    assert [button.label for button in at.download_button] == ["Export"]
    (summary,) = store().sessions.list()
    assert store().sessions.get(summary.id).recipe == session.recipe


def test_a_session_whose_vector_is_gone_can_still_be_deleted() -> None:
    session = with_a_vector()
    assert session.recipe is not None
    plain, learned, steered = session.recipe.request.arms
    lost = replace(learned, edits=(Edit(1, tensors="f" * 64),))
    request = replace(session.recipe.request, arms=(plain, lost, steered))
    store().sessions.save(replace(session, recipe=replace(session.recipe, request=request)))
    at = choose(open_page("sessions"))
    assert errors(at)
    assert not at.download_button
    settle(at.button(key="sessions_delete").click().run())
    assert store().sessions.list() == []


def test_a_shared_session_of_any_door_names_every_arm() -> None:
    session = with_a_vector()
    assert session.recipe is not None
    other = Arm("other", edits=(Edit(0, sae_id="x", latents=(ChosenLatent(5, 1.0),)),))
    request = session.recipe.request
    request = replace(request, arms=(*request.arms, other))
    shared = store().sessions.save(
        replace(session, recipe=replace(session.recipe, request=request))
    )
    at = shared_page(store().sessions.share(shared.id))
    tables = [list(frame.value["latent"]) for frame in at.dataframe[:2]]
    assert tables == [[7, 3], [5]]
    page = texts(at)
    assert "**steered**, after block 1" in page
    assert "**other**, after block 0" in page
    rows = dict(zip(*(at.dataframe[2].value[name] for name in ("what", "value")), strict=True))
    assert rows["arm *learned*"] == "a vector after block 1 · strength 0.4"


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format": "saif-session"}'])
def test_a_file_that_is_no_session_is_answered_with_one_sentence(data: bytes) -> None:
    at = open_page("sessions")
    at.file_uploader(key="sessions_upload").upload("odd.json", data, "application/json")
    press(at, "Import")
    (message,) = errors(at)
    assert r"odd\.json" in message
    assert store().sessions.list() == []


def shared_page(share_id: str) -> AppTest:
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params["session"] = share_id
    return settle(at.run())


def test_a_shared_session_tells_its_story_without_the_model(session: SteeringSession) -> None:
    at = shared_page(store().sessions.share(session.id))
    page = texts(at)
    for part in ("1. The instruction", "2. The latents", "3. The texts", "Notes"):
        assert part in page
    assert "It *shouts*." in [element.value for element in at.text]
    assert "The mayor <i>spoke</i>." in [element.value for element in at.text]
    assert "HELLO" in page
    assert "<b>there" not in page
    assert "**strict**" in page
    assert not engine().status().model_loaded
    assert f"{saved.PROMPT} Answer in capital letters." in [element.value for element in at.text]
    assert "1 latent fires on at least 80% with it and on at most 5% without" in page.replace(
        "\\", ""
    )
    assert "of answer tokens with" in page.replace("\\", "")
    assert "instructed prompts" not in page
    plain = page.replace("\\", "")
    assert "Written by tiny, through SAE " in plain
    assert "; prompts were given as chat messages; greedy" in plain
    assert "greedy, seed 3, 48 tokens at most" in plain
    assert "no name was recorded" in plain
    assert not re.search(r"\d{4}-\d\d-\d\dT", page)
    assert "unsteered 0 of 1; steered 0 of 1" in page
    assert "was not measured here" in page
    manifest = at.dataframe[1].value
    assert "a" * 64 in set(manifest["value"])


def test_a_reader_opens_a_copy_to_go_on_with(session: SteeringSession) -> None:
    at = shared_page(store().sessions.share(session.id))
    settle(at.button(key="shared_copy").click().run())
    assert "What does it do to the text?" in texts(at)
    copy = at.session_state["compare_opened"]
    assert copy.id != session.id
    assert copy.share_id is None
    assert len(store().sessions.list()) == 2


def test_a_session_with_nothing_in_it_is_told_too() -> None:
    empty = store().sessions.save(SteeringSession("Empty"))
    page = texts(shared_page(store().sessions.share(empty.id)))
    assert "No latents were chosen." in page
    assert "No texts were generated" in page
    assert "No notes were written." in page


@pytest.mark.parametrize("share_id", ["nothing", "' OR 1=1 --", "<script>"])
def test_a_link_that_opens_nothing_says_so(share_id: str) -> None:
    assert "This link opens no session" in texts(shared_page(share_id))


def test_a_withdrawn_link_opens_nothing(session: SteeringSession) -> None:
    share_id = store().sessions.share(session.id)
    store().sessions.unshare(session.id)
    assert "This link opens no session" in texts(shared_page(share_id))


def test_a_session_of_an_sae_that_is_not_here_can_still_be_read(session: SteeringSession) -> None:
    elsewhere = store().sessions.save(
        replace(saved.session(sae="elsewhere/layer9"), name="Elsewhere")
    )
    at = open_page("compare", open=elsewhere.id)
    assert "is not offered here" in texts(at)
    assert "HELLO" in texts(at)
    assert store().sessions.get(session.id).name == session.name


def test_an_address_of_an_unknown_session_lists_no_others(session: SteeringSession) -> None:
    at = open_page("compare", open="nope")
    (message,) = errors(at)
    assert "There is no session called" in message
    assert session.id not in message
