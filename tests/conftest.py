"""Fixtures shared by all tests; nothing heavy is imported until a test asks for a model."""

import os
from collections.abc import Iterator
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


@pytest.fixture
def tiny_process(
    tiny_model_dir: Path, tiny_sae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What one server process keeps, on the tiny model and its SAE."""
    from tests.pages import one_process

    monkeypatch.setenv("SAIF_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("SAIF_SAES", str(tiny_sae_dir))
    with one_process():
        yield
