"""Fixtures shared by all tests; nothing heavy is imported until a test asks for a model."""

import os
from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(autouse=True)
def saif_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test, with no other SAIF_* variable set."""
    for name in [name for name in os.environ if name.startswith("SAIF_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "saif-home"
    monkeypatch.setenv("SAIF_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama."""
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_sae_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A TopK SAE after block 1 of the tiny Llama; latent 7 is the planted one."""
    return tiny.save_sae(tmp_path_factory.mktemp("saes") / "tiny-sae", tiny_model_dir)
