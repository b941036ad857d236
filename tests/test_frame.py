"""The sidebar: SAEs that cannot be used stand there with the reason, out of the picker's reach."""

import json
import shutil
from pathlib import Path

import pytest

from app.dashboard.handles import engine
from tests.pages import open_page

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
