"""What the pages say, and what goes on working, where a file of the model or an SAE is broken."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine
from app.presentation.escaping import escape_markdown
from saif_core.records.questions import LoadRequest
from tests.pages import MAIN, errors, one_process, open_page, settle, texts


@pytest.fixture
def copies(
    tmp_path: Path, tiny_model_dir: Path, tiny_sae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """Folders of a model and an SAE to break, before the process begins."""
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "broken-model"))
    sae = Path(shutil.copytree(tiny_sae_dir, tmp_path / "broken-sae"))
    monkeypatch.setenv("SAIF_MODEL", str(model))
    monkeypatch.setenv("SAIF_SAES", f"{sae},{tiny_sae_dir}")
    with one_process():
        yield model, sae


def cut(file: Path) -> None:
    """Leave half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
@pytest.mark.parametrize("page", ["compare", "evaluate", "sessions", "instructions"])
def test_a_truncated_sae_is_named_and_the_others_are_offered(
    copies: tuple[Path, Path], tiny_sae_dir: Path, name: str, page: str
) -> None:
    cut(copies[1] / name)
    at = open_page(page)
    assert escape_markdown("broken-sae") in texts(at)
    assert "Something went wrong" not in "".join(errors(at))
    assert at.session_state["work"].sae_id == str(tiny_sae_dir)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("page", ["compare", "evaluate", "sessions", "instructions", "latent"])
def test_a_truncated_model_is_named_and_the_pages_stand(
    copies: tuple[Path, Path], name: str, page: str
) -> None:
    cut(copies[0] / name)
    engine().submit(LoadRequest(engine().saes()[0].id)).wait(60)
    at = open_page(page)
    assert "Something went wrong" not in "".join(errors(at))
    assert at.title[0].value
    if page in ("compare", "evaluate"):
        assert "could not be loaded" in texts(at)
        assert "can still be read" in texts(at)


@pytest.mark.usefixtures("tiny_process")
@pytest.mark.parametrize("page", ["compare", "evaluate", "sessions"])
def test_a_damaged_database_is_answered_with_a_sentence(saif_home: Path, page: str) -> None:
    saif_home.mkdir(parents=True, exist_ok=True)
    (saif_home / "saif.db").write_bytes(b"no database" * 1000)
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    settle(at.run())
    settle(at.switch_page(f"views/{page}.py").run())
    (message,) = errors(at)
    assert "not a SQLite database" in message
