"""Fixtures shared by all tests; nothing heavy is imported until a test asks for a model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.settings import be_courteous
from tests import tiny

be_courteous()  # before anything loads torch

if TYPE_CHECKING:
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.saes.loaded_sae import LoadedSae
    from saif_core.steering.arms import ArmBuilder
    from saif_core.steering.tensors import Tensors
    from tests.cli import Run


@pytest.fixture(autouse=True)
def saif_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test, with no other SAIF_* variable set."""
    for name in [name for name in os.environ if name.startswith("SAIF_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "saif-home"
    monkeypatch.setenv("SAIF_HOME", str(home))
    return home


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for plug-ins of a test's own; afterwards none but the shipped ones are offered."""
    from saif_core.registry import use_plugins

    yield tmp_path / "plugins"
    use_plugins([])


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama."""
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_sae_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A TopK SAE after block 1 of the tiny Llama; latent 7 is the planted one."""
    return tiny.save_sae(tmp_path_factory.mktemp("saes") / "tiny-sae", tiny_model_dir)


@pytest.fixture(scope="session")
def endless_model(tiny_model_dir: Path) -> "LoadedModel":
    """The tiny Llama, which never ends a text by itself."""
    from saif_core.models.loading import load_model

    loaded = load_model(tiny_model_dir, id=str(tiny_model_dir))
    loaded.hf_model.generation_config.eos_token_id = loaded.d_vocab - 1
    return loaded


@pytest.fixture(scope="session")
def tiny_sae(tiny_sae_dir: Path, endless_model: "LoadedModel") -> "LoadedSae":
    """Its SAE, loaded."""
    from saif_core.saes.loaded_sae import load_sae_folder

    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=endless_model)


@pytest.fixture
def model(endless_model: "LoadedModel") -> "LoadedModel":
    """The model of tests that need no other."""
    return endless_model


@pytest.fixture
def sae(tiny_sae: "LoadedSae") -> "LoadedSae":
    """The SAE of tests that need no other."""
    return tiny_sae


@pytest.fixture
def tensors() -> "Tensors":
    """Where edits of a test find their tensors."""
    from saif_core.steering.tensors import Tensors

    return Tensors()


@pytest.fixture
def builder(model: "LoadedModel", sae: "LoadedSae", tensors: "Tensors") -> "ArmBuilder":
    """Turns a test's arms into what is written."""
    from saif_core.steering.arms import ArmBuilder

    return ArmBuilder(model, {sae.id: sae}, tensors)


@pytest.fixture
def saif(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> "Run":
    """Runs ``saif`` in this process, on the tiny model and its SAE."""
    from tests.cli import runner

    return runner(capfd, monkeypatch, tiny_model_dir, tiny_sae_dir)


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
