import os

import pytest

from app.dashboard.handles import store
from app.dashboard.work import Work
from app.settings import export_settings, load_settings
from saif_core.catalog import DEFAULT_MODEL
from saif_core.errors import SaifError


def test_settings_have_defaults_below_home(tmp_path: object) -> None:
    settings = load_settings({"SAIF_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/saif.db"
    assert settings.model == DEFAULT_MODEL
    assert (settings.saes, settings.host, settings.port) == ((), "127.0.0.1", 8501)
    assert settings.cache_mb == 2048


def test_settings_read_what_is_set_and_pass_over_what_is_empty() -> None:
    settings = load_settings({"SAIF_SAES": " a, ,b:c ", "SAIF_PORT": "80", "SAIF_MODEL": " "})
    assert settings.saes == ("a", "b:c")
    assert settings.port == 80
    assert settings.model == DEFAULT_MODEL


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", "8.5", "²"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(SaifError, match="SAIF_PORT"):
        load_settings({"SAIF_PORT": port})


@pytest.mark.parametrize("size", ["x", "0", "-1", "8.5", "²", "1e3", "9" * 5000])
def test_a_cache_size_that_is_none_is_refused_in_one_sentence(size: str) -> None:
    with pytest.raises(SaifError, match="^SAIF_CACHE_MB is .* 1 or more\\.$") as raised:
        load_settings({"SAIF_CACHE_MB": size})
    assert len(str(raised.value)) < 200


def test_the_cache_size_is_read_and_handed_to_other_code_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    export_settings(load_settings({"SAIF_CACHE_MB": "7"}))
    assert load_settings().cache_mb == 7


def test_the_key_of_the_endpoint_is_read_and_handed_on_but_never_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    asked = {"SAIF_LLM_URL": " http://x/v1 ", "SAIF_LLM_MODEL": "m", "SAIF_LLM_KEY": "sk-secret"}
    settings = load_settings(asked)
    assert (settings.llm_url, settings.llm_model) == ("http://x/v1", "m")
    assert "sk-secret" not in repr(settings)
    export_settings(settings)
    assert load_settings().llm_key == "sk-secret"


def test_the_store_of_the_app_keeps_no_more_than_the_setting_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAIF_CACHE_MB", "1")
    for number in range(5):
        store().cache.put_many({str(number): bytes(300_000)})
    assert 0 < store().cache.size_bytes() <= 1 << 20
    store().close()


def test_work_survives_its_address() -> None:
    work = Work(sae_id="model/layer1", instruction="shout", job_id="j", strength=0.75)
    work.add_latent(12, 3.5)
    work.add_latent(7, -0.25)
    again = Work.from_query(work.to_query())
    assert again == work
    assert list(again.basket) == [12, 7]


def test_defaults_stay_out_of_the_address() -> None:
    assert Work().to_query() == {}


@pytest.mark.parametrize(
    "query",
    [
        {"basket": "x:1,:,7,7:nan,-3:1,1:inf,9999999999999:1,²:1,5:1e12,6:-1e7"},
        {"strength": "nan"},
        {"strength": "1e9"},
        {"strength": "much"},
    ],
)
def test_what_makes_no_sense_in_an_address_is_ignored(query: dict[str, str]) -> None:
    work = Work.from_query(query)
    assert work.basket == {}
    assert work.strength == 1.0


def test_every_sae_has_its_own_basket() -> None:
    work = Work(sae_id="a")
    work.add_latent(1, 1.0)
    work.choose_sae("b")
    assert work.basket_latents() == ()
    work.choose_sae("a")
    assert [latent.index for latent in work.basket_latents()] == [1]
