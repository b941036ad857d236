"""Describing a latent through the engine, with an endpoint that says what is planted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saif_core.catalog import Catalog
from saif_core.engine.engine import Engine
from saif_core.errors import SaifError
from saif_core.models.language_endpoint import LanguageEndpoint
from saif_core.records.as_json import from_json
from saif_core.records.descriptions import Evidence, InputScore, OutputScore
from saif_core.records.notes import LatentDescription
from saif_core.records.questions import DescribeRequest
from saif_core.records.ranking import ChosenLatent
from tests import tiny
from tests.test_language_endpoint import Answer, FakeServer, chat
from tests.test_language_endpoint import server as server

ACTIVATING = [f"The {noun} {tiny.PLANTED_WORD} ." for noun in "cat dog house river book".split()]
NEUTRAL = [f"The old {noun}." for noun in "cat dog house river book".split()]


class Notes:
    """Keeps descriptions."""

    def __init__(self) -> None:
        self.kept: list[LatentDescription] = []

    def add_description(self, description: LatentDescription) -> None:
        self.kept.append(description)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def engine(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path: Path, server: FakeServer, notes: Notes
) -> Iterator[Engine]:
    opened = Engine(
        Catalog(tmp_path / "home", extra_saes=[str(tiny_sae_dir)]),
        model_id=str(tiny_model_dir),
        notes=notes,
        endpoint=LanguageEndpoint(server.url, "tiny-chat"),
        device="cpu",
    )
    yield opened
    opened.close()


@pytest.fixture
def asked(tiny_sae_dir: Path) -> DescribeRequest:
    return DescribeRequest(
        str(tiny_sae_dir),
        "a" * 64,
        ChosenLatent(tiny.PLANTED_LATENT, 4.0),
        Evidence(promoted=(" oui",)),
        (ChosenLatent(3, 4.0), ChosenLatent(40, 4.0)),
    )


def planted(request: dict[str, Any]) -> Answer:
    """A description, then sentences, then the set of texts that the plant made."""
    told = str(request["messages"][-1]["content"])
    if "Set 1:" in told:
        steered = re.split(r"^Set (\d):$", told, flags=re.MULTILINE)
        sets = dict(zip(steered[1::2], steered[2::2], strict=True))
        return chat(max(sets, key=lambda number: sets[number].count("oui")))
    if "neutral" in told.lower():
        return chat(json.dumps({"activating": ACTIVATING, "neutral": NEUTRAL}))
    return chat(f"The word {tiny.PLANTED_WORD}.")


def test_a_latent_is_described_tested_and_kept(
    engine: Engine, server: FakeServer, asked: DescribeRequest, notes: Notes
) -> None:
    server.reply = planted
    job = engine.submit(asked)
    described = job.result(timeout=120)
    assert described.text == f"The word {tiny.PLANTED_WORD}."
    assert (described.latent, described.sae_sha256) == (tiny.PLANTED_LATENT, "a" * 64)
    assert described.model == "tiny-chat"
    assert (described.input_score, described.output_score) == (1.0, 1.0)
    on_input = from_json(InputScore, described.evidence["input"])
    assert [text for text, _ in on_input.activating] == ACTIVATING
    assert min(value for _, value in on_input.activating) > 0
    assert max(value for _, value in on_input.neutral) == 0
    on_output = from_json(OutputScore, described.evidence["output"])
    assert on_output.n_success == on_output.n_judged > 0
    assert notes.kept == [described]
    assert (job.record.state, job.record.done) == ("done", 3)


def test_a_latent_that_changes_no_text_has_no_output_score(
    engine: Engine, server: FakeServer, asked: DescribeRequest, notes: Notes
) -> None:
    server.reply = planted
    still = DescribeRequest(
        asked.sae_id,
        asked.sae_sha256,
        ChosenLatent(tiny.PLANTED_LATENT, 0.0),
        asked.evidence,
        asked.others,
    )
    described = engine.ask(still)
    assert described.output_score is None
    assert "changed no logit" in described.evidence["output"]["problem"]
    assert described.input_score == 1.0
    assert notes.kept == [described]


def test_an_endpoint_that_fails_ends_the_description_alone(
    engine: Engine, server: FakeServer, asked: DescribeRequest, notes: Notes
) -> None:
    server.reply = lambda _: Answer(b"{}", status=401)
    job = engine.submit(asked)
    with pytest.raises(SaifError, match="refused the key"):
        job.result(timeout=60)
    assert job.record.state == "failed"
    assert not notes.kept
    server.reply = planted
    assert engine.ask(asked).input_score == 1.0
