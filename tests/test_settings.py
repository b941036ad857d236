"""The environment variables of an installation, read and written in one place."""

import os
from dataclasses import fields
from pathlib import Path

import pytest

from app.settings import SETTINGS, Settings, be_courteous, export_settings, load_settings
from saif_core.errors import SaifError


def test_every_setting_has_a_variable_a_default_and_help() -> None:
    assert [one.name for one in SETTINGS] == [field.name for field in fields(Settings)]
    for one in SETTINGS:
        assert one.variable == f"SAIF_{one.name.upper()}"
        assert one.help
        assert one.default_words in ("none", f"`{one.default}`") or "<SAIF_HOME>" in (
            one.default_words
        )


def test_an_empty_environment_has_the_defaults() -> None:
    settings = load_settings({"SAIF_MODEL": " ", "SAIF_HOME": "/somewhere"})
    assert settings.home == Path("/somewhere")
    assert settings.database_url == "sqlite:////somewhere/saif.db"
    assert (settings.model, settings.saes, settings.plugins) == ("smollm2-135m-instruct", (), ())
    assert (settings.host, settings.port, settings.cache_mb) == ("127.0.0.1", 8501, 2048)
    assert load_settings({}).home == Path("~/.saif").expanduser().resolve()


def test_lists_are_separated_by_commas() -> None:
    settings = load_settings({"SAIF_SAES": "a, release:b ,", "SAIF_PLUGINS": "/x,~/y"})
    assert settings.saes == ("a", "release:b")
    assert settings.plugins == (Path("/x"), Path("~/y").expanduser())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("SAIF_PORT", value) for value in ("0", "65536", "http", "8501.0", "-1")),
        *(("SAIF_CACHE_MB", value) for value in ("0", "-5", "many", "1.5", "9" * 13)),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SaifError, match=name):
        load_settings({name: value})


def test_a_key_is_never_printed() -> None:
    assert "secret" not in repr(load_settings({"SAIF_LLM_KEY": "secret"}))


def test_exported_settings_are_those_loaded_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    given = {one.variable: "7" for one in SETTINGS} | {"SAIF_HOME": "/h", "SAIF_PLUGINS": "/a,/b"}
    settings = load_settings(given)

    export_settings(settings)

    assert load_settings() == settings
    assert os.environ["SAIF_PLUGINS"] == "/a,/b"


def test_threads_wait_without_holding_a_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    be_courteous()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    be_courteous()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
