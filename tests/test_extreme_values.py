"""Values of imported sessions that no form would take."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.dashboard.fields import upload_bounds
from app.dashboard.fields.upload_bounds import MOST_FILES, MOST_UPLOAD_MB, check_files
from app.dashboard.handles import engine, store
from app.dashboard.views import __file__ as VIEWS
from app.presentation.session_files import export_session, import_session
from saif_core.errors import CorpusError, SaifError
from tests import saved
from tests.pages import errors, open_page, settle, texts, wait_for

CONFIG = Path(__file__).parent.parent / ".streamlit" / "config.toml"


def edited(sae_id: str, old: str, new: str) -> bytes:
    """An exported session with one value written over in its request."""
    document = json.loads(export_session(saved.session(sae=sae_id)))
    text = json.dumps(document)
    assert old in text
    return text.replace(old, new).encode()


@pytest.mark.usefixtures("tiny_process")
@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"coefficient": 2.5', '"coefficient": 1e300', "coefficient"),
        ('"temperature": 0.0', '"temperature": 1e300', "temperature"),
        ('"strength": 0.8', '"strength": 1e300', "strength"),
    ],
)
def test_values_beyond_the_ranges_are_refused_in_one_sentence(
    tiny_sae_dir: Path, old: str, new: str, field: str
) -> None:
    with pytest.raises(SaifError, match=field) as raised:
        import_session(edited(str(tiny_sae_dir), old, new), filename="a.saif.json")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.usefixtures("tiny_process")
def test_a_temperature_next_to_nothing_writes_texts_or_says_why(tiny_sae_dir: Path) -> None:
    session = saved.session(sae=str(tiny_sae_dir))
    assert session.recipe is not None
    request = session.recipe.request
    sampling = replace(request.sampling, temperature=1e-300, max_new_tokens=4)
    recipe = replace(session.recipe, request=replace(request, sampling=sampling))
    kept = store().sessions.save(replace(session, recipe=recipe, result=None))
    at = open_page("compare", open=kept.id)
    assert not errors(at)
    settle(at.button(key="compare_generate").click().run())
    job = engine().job(at.session_state["compare_run"])
    assert job is not None
    wait_for(job)
    settle(at.run())
    assert job.record.state == "done" or isinstance(job.error, SaifError), job.error
    assert "see the log" not in "".join(errors(at)) + texts(at)


def test_the_bounds_of_uploads_are_those_of_the_server() -> None:
    import tomllib

    server = tomllib.loads(CONFIG.read_text())["server"]
    assert server["maxUploadSize"] == MOST_UPLOAD_MB
    pages = "\n".join(path.read_text() for path in Path(VIEWS).parent.glob("*.py"))
    assert "max_upload_size=MAX_BYTES // 2**20" not in pages
    assert f"{MOST_UPLOAD_MB} MB each" in upload_bounds.BOUNDS


def test_every_field_for_files_says_what_is_read_of_it() -> None:
    for path in (Path(VIEWS).parents[1]).rglob("*.py"):
        page = path.read_text()
        assert page.count("st.file_uploader(") == page.count("max_upload_size="), path.name


def test_too_many_files_at_once_are_refused() -> None:
    class File:
        size = 1

    check_files([File()] * MOST_FILES)
    with pytest.raises(CorpusError, match=f"at most {MOST_FILES} files"):
        check_files([File()] * (MOST_FILES + 1))
