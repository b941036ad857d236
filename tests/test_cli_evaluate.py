"""``saif evaluate`` with an engine that answers at once: what it is asked, and what is shown."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from app.cli.main import main
from app.cli.texts import evaluation_text
from app.presentation.evaluation import content_sentence
from app.presentation.evaluation_files import evaluation_data, evaluation_sentence
from app.settings import Settings, load_settings
from saif_core.engine.job import Job
from saif_core.evaluating.plan import check_request
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.records.evaluation import (
    DEFAULT_CANDIDATES,
    Candidate,
    Evaluation,
    EvaluationRequest,
)
from saif_core.records.saes import SaeInfo
from saif_core.records.steering import Sampling, Schedule
from storage import Store, open_store
from tests.storage_samples import as_before
from tests.test_evaluation_files import sample_evaluation, sample_text

FRENCH = "translate-to-french"
SAES = tuple(
    SaeInfo(f"tiny/{layer}", "tiny", f"blocks.{layer}.hook_resid_post", layer, 64, "")
    for layer in (29, 12, 14)
)


class Engine:
    """Finishes every evaluation at once and keeps it, as the engine does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests: list[EvaluationRequest] = []
        self.evaluations: list[Evaluation] = []

    def saes(self) -> tuple[SaeInfo, ...]:
        return SAES

    def refused_saes(self) -> tuple[SaeInfo, ...]:
        return ()

    def submit(self, request: EvaluationRequest) -> Job:
        check_request(request)
        self.requests.append(request)

        def work(job: Job) -> Evaluation:
            job.step(1, 2, "writing texts")
            evaluation = replace(sample_evaluation(), request=request)
            texts = [sample_text(cell.cell, "Voilà <b>.") for cell in evaluation.best]
            self._store.evaluations.save(evaluation, texts)
            self.evaluations.append(evaluation)
            return evaluation

        job = Job("evaluate", "Evaluate", request, work)
        job.run()
        return job


class Ran(NamedTuple):
    status: int
    out: str
    err: str


class Saif(NamedTuple):
    """``saif evaluate`` as a function, and the engine it ran on last."""

    run: Callable[..., Ran]
    engines: list[Engine]

    def request(self, *arguments: object) -> EvaluationRequest:
        """What the engine is asked for."""
        ran = self.run("--instruction", FRENCH, *arguments, "--json")
        assert ran.status == 0, ran.err
        return self.engines[-1].requests[-1]

    def refusal(self, *arguments: object) -> str:
        """The one sentence on standard error; no engine was asked."""
        n_before = sum(len(engine.requests) for engine in self.engines)
        ran = self.run(*arguments, "--json")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.count("\n") == 1
        assert sum(len(engine.requests) for engine in self.engines) == n_before
        return ran.err


@pytest.fixture
def saif(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Saif:
    engines: list[Engine] = []

    @contextlib.contextmanager
    def started(_settings: Settings, store: Store) -> Iterator[Engine]:
        engines.append(Engine(store))
        yield engines[-1]

    monkeypatch.setattr("app.cli.requests.started_engine", started)

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, *capfd.readouterr())

    return Saif(run, engines)


def test_the_first_contents_rank_and_the_last_ones_test(saif: Saif) -> None:
    request = saif.request()
    assert request.rank_contents == tuple(shipped_contents()[:32])
    assert request.test_contents == tuple(shipped_contents()[-100:])
    assert not set(request.rank_contents) & set(request.test_contents)
    few = saif.request("--n", 2, "--rank-contents", 238)
    assert (len(few.rank_contents), len(few.test_contents)) == (238, 2)
    assert "239 contents" in saif.refusal("--instruction", FRENCH, "--n", 2, "--rank-contents", 239)


def test_contents_may_come_from_a_file(saif: Saif, tmp_path: Path) -> None:
    contents = tmp_path / "contents.txt"
    contents.write_text("one\ntwo\nthree\nfour\nfive\n", encoding="utf-8")
    counts = ("--contents", contents, "--n", 2, "--rank-contents")
    request = saif.request(*counts, 3)
    assert request.rank_contents == ("one", "two", "three")
    assert request.test_contents == ("four", "five")
    assert "there are 5" in saif.refusal("--instruction", FRENCH, *counts, 4)


def test_every_second_wording_ranks_and_the_others_test(saif: Saif, tmp_path: Path) -> None:
    own = [wording.text for wording in shipped_instructions()[FRENCH].wordings]
    request = saif.request()
    assert request.instruction == shipped_instructions()[FRENCH]
    assert (request.rank_wordings, request.test_wordings) == (tuple(own[::2]), tuple(own[1::2]))
    single = tmp_path / "single.yaml"
    single.write_text(
        "name: single\nevaluator: question\nwordings: [Only one.]\n",
        encoding="utf-8",
    )
    assert saif.run("--instruction", single).status == 0
    asked = saif.engines[-1].requests[-1]
    assert asked.rank_wordings == asked.test_wordings == ("Only one.",)


def test_options_left_out_are_those_of_the_record(saif: Saif) -> None:
    request = saif.request()
    plain = EvaluationRequest(
        request.instruction,
        ("tiny/29",),
        request.rank_contents,
        request.rank_wordings,
        request.test_contents,
        request.test_wordings,
    )
    assert request == plain
    assert request.candidates == DEFAULT_CANDIDATES
    assert request.arms == (
        *("unsteered", "prompted", "saif", "denoised", "mean_difference", "random"),
    )


def test_every_option_reaches_the_engine(saif: Saif) -> None:
    request = saif.request(
        *("--source", "saif", "--source", "saif:clamp", "--source", "denoised"),
        *("--source-parameter", "saif.top=5,15", "--source-parameter", "saif:clamp.beta=0.5"),
        *("--source-parameter", "denoised.top=30", "--strengths", "0.4,-0.8"),
        *("--control", "flipped", "--control", "cue-token", "--controls-of", "all"),
        *("--baseline", "unsteered", "--layers", "14,12", "--further-layers", "3", "--together"),
        *("--read", "last-token", "--response-tokens", 7, "--position", "before"),
        *("--selector", "sensitivity", "--selector-parameter", "compare=higher"),
        *("--scope", "first", "--first", 3, "--decay", 0.1, "--decay-power", 2, "--keep-norm"),
        *("--max-new-tokens", 7, "--temperature", 0.2, "--top-p", 0.9, "--stop", "!"),
        *("--seed", 3, "--no-chat", "--system", "Be brief."),
    )
    assert request.sae_ids == ("tiny/14", "tiny/12")
    assert request.layers == (3,)
    assert request.candidates == (
        Candidate("saif", {"top": (5, 15)}),
        Candidate("saif", {"top": (5, 15), "beta": (0.5,)}, "clamp"),
        Candidate("denoised", {"top": (30,)}),
    )
    assert request.arms == (
        *("unsteered", "saif", "saif by clamp", "denoised", "flipped", "cue-token"),
    )
    assert (request.controls_of, request.strengths) == ("all", (0.4, -0.8))
    assert (request.together, request.keep_norm) == (True, True)
    assert (request.read, request.response_tokens) == ("last-token", 7)
    assert (request.position, request.selector) == ("before", "sensitivity")
    assert request.selector_parameters == {"compare": "higher"}
    assert request.schedule == Schedule("first", 3, decay=0.1, decay_power=2.0)
    assert request.sampling == Sampling(False, "Be brief.", 7, 0.2, 0.9, ("!",), 3)
    assert saif.request("--sae", "tiny/12").sae_ids == ("tiny/12",)


def test_a_method_writes_every_source_that_names_none(saif: Saif) -> None:
    request = saif.request("--source", "saif", "--source", "one_latent:ablate", "--method", "clamp")
    assert [one.arm for one in request.candidates] == ["saif by clamp", "one_latent by ablate"]
    mean = saif.request("--source", "none", "--control", "none", "--baseline", "prompted")
    assert mean.arms == ("prompted",)


def test_named_latents_are_a_candidate(saif: Saif) -> None:
    request = saif.request("--source", "none", "--latents", "7:2,8:1")
    assert request.candidates == (Candidate("basket", {"latents": ("7:2,8:1",)}),)
    texts = ("basket.latents=7:2,8:1", "basket.latents=9:1")
    given = [word for text in texts for word in ("--source-parameter", text)]
    request = saif.request("--source", "basket", *given)
    assert request.candidates == (Candidate("basket", {"latents": ("7:2,8:1", "9:1")}),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "best"), "no source called 'best'"),
        (("--source", "saif:best"), "no steering method called 'best'"),
        (("--source-parameter", "top=5"), "WHOSE.NAME=V1,V2"),
        (("--source-parameter", "saif.top"), "WHOSE.NAME=V1,V2"),
        (("--source-parameter", "one_latent.beta=1"), "is of none of the candidates"),
        (("--source", "saif", "--source-parameter", "saif.best=1"), "no parameter 'best'"),
        (("--control", "best"), "no such control"),
        (("--baseline", "random"), "no such baseline"),
        (("--controls-of", "some"), "--controls-of"),
        (("--latents", "7"), "INDEX:COEFFICIENT"),
        (("--strengths", "0.5,much"), "'much' is not a finite number"),
        (("--strengths", "0.5,,1"), "'' is not a finite number"),
        (("--strengths", "nan"), "'nan' is not a finite number"),
        (("--strengths", "1000"), "strengths"),
        (("--decay", "inf"), "--decay"),
        (("--decay", "-1"), "--decay"),
        (("--source-parameter", "saif.top=0"), "from 1 to 1000, but is 0"),
        (("--source-parameter", "saif.top=15,2000"), "from 1 to 1000, but is 2000"),
        (("--source-parameter", "denoised.top=1.5"), "a whole number from 1 to 1000, but is 1.5"),
        (("--layers", "-1"), "'-1' is not the number of a layer"),
        (("--layers", "12,13"), "no SAE for layer 13"),
        (("--layers", "12", "--sae", "tiny/12"), "--sae tiny/12 and --layers 12"),
        (("--together",), "--together"),
        (("--layers", "12", "--together"), "--together"),
        (("--n", "1"), "--n"),
        (("--rank-contents", "0"), "--rank-contents"),
        (("--scope", "everywhere"), "--scope"),
        (("--html", "no-such-folder/a.html"), "'no-such-folder/a.html'"),
        (("--instruction", "no-such"), "no instruction called 'no-such'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    arguments: tuple[str, ...], words: str, saif: Saif
) -> None:
    assert words in saif.refusal("--instruction", FRENCH, *arguments)


def test_an_instruction_is_needed(saif: Saif) -> None:
    assert "--instruction" in saif.refusal()


def test_the_answer_is_the_data_and_the_evaluation_is_in_the_store(saif: Saif) -> None:
    ran = saif.run("--instruction", FRENCH, "--json")
    (evaluation,) = saif.engines[-1].evaluations
    assert json.loads(ran.out) == evaluation_data(evaluation)
    assert ran.out.count("\n") == 1
    store = open_store(load_settings().database_url)
    assert [found.id for found in store.evaluations.list(instruction=FRENCH)] == [evaluation.id]
    store.close()


def test_people_read_a_table_and_the_sentence(saif: Saif) -> None:
    ran = saif.run("--instruction", FRENCH)
    (evaluation,) = saif.engines[-1].evaluations
    lines = ran.out.splitlines()
    assert lines[0] == f"{FRENCH}: 100 test contents, tiny, 12 s"
    assert lines[2].split()[:2] == ["arm", "layer"]
    rows = lines[3 : 3 + len(evaluation.cells)]
    assert [row.startswith("*") for row in rows] == [False, True, False, True, True, False]
    assert "0.8" in rows[3]
    assert lines[2].split()[-4:] == ["useful", "strict", "loose", "broken"]
    assert "38% [28–48]  46% [36–56]" in rows[3]
    assert lines[-2:] == [evaluation_sentence(evaluation), content_sentence(evaluation)]


def test_people_read_of_an_evaluation_of_before_what_is_known() -> None:
    before = as_before(sample_evaluation())
    lines = evaluation_text(before).splitlines()
    assert lines[2].split()[-3:] == ["strict", "loose", "broken"]
    assert "useful" not in lines[2]
    assert "46% [36–56]" in lines[6]
    assert lines[-2:] == [evaluation_sentence(before), content_sentence(before)]


def test_the_html_file_holds_the_texts_of_the_best_cells(saif: Saif, tmp_path: Path) -> None:
    file = tmp_path / "evaluation.html"
    ran = saif.run("--instruction", FRENCH, "--html", file, "--json")
    assert json.loads(ran.out)["instruction"] == FRENCH
    assert file.read_text(encoding="utf-8").count("Voilà &lt;b&gt;.") == 3
