"""The command line on the tiny model: answers, refusals, and nothing else on standard output."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.main import COMMANDS, GROUPS
from app.presentation.figures import moment_words
from app.presentation.session_files import export_session
from app.settings import export_settings, load_settings
from saif_core.records.ranking import ChosenLatent
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult
from tests import tiny
from tests.cli import Run, runner

ROOT = Path(__file__).parent.parent
INTERRUPTED = """
import os, signal
from app.cli import main as cli
from app.cli import output as cli_output

# Where a shell runs this in the background, the signal would be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupting(cli_output.ProgressLine):
    sent = False

    def __call__(self, message, done, total):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)

cli_output.ProgressLine = Interrupting
cli.main()
"""
EDIT = Edit(1, sae_id="s", latents=(ChosenLatent(7, 2.5),))
REQUEST = GenerationRequest(("The cat",), (UNSTEERED, Arm("steered", edits=(EDIT,))))
RECIPE = SteeringRecipe(REQUEST, "m", "0" * 64, {"s": "1" * 64})


@pytest.fixture
def saif(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
) -> Run:
    """Runs ``saif`` in this process, on the tiny model."""
    return runner(capfd, monkeypatch, tiny_model_dir)


@pytest.fixture
def with_sae(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> Run:
    """The same with the planted SAE among those offered."""
    return runner(capfd, monkeypatch, tiny_model_dir, tiny_sae_dir)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "planted.jsonl"
    rows = [{"content": c, "instruction": tiny.PLANTED_WORD} for c in tiny.contents(6)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def make_session() -> SteeringSession:
    texts = tuple(
        Generation(0, "The cat", arm, text, (1, 2), "length")
        for arm, text in (("unsteered", "sat"), ("steered", "oui \x1b[31m"))
    )
    return SteeringSession(
        "Speaks French", recipe=RECIPE, result=GenerationResult(RECIPE, texts, 2.5, (None, None))
    )


@pytest.fixture
def session_file(tmp_path: Path) -> Path:
    path = tmp_path / "session.json"
    session = make_session()
    assert session.result
    clean = tuple(replace(g, text=g.text.split(" ")[0]) for g in session.result.generations)
    session = replace(session, result=replace(session.result, generations=clean))
    path.write_text(export_session(session), encoding="utf-8")
    return path


def test_rank_puts_the_planted_latent_first_and_computes_nothing_twice(
    with_sae: Run, tiny_model_dir: Path, tiny_sae_dir: Path, pairs_file: Path
) -> None:
    arguments = ("rank", "--pairs", pairs_file, "--read", "last-token", "--top", 5, "--json")

    first = with_sae(*arguments).answer

    assert first["model"] == str(tiny_model_dir)
    assert first["sae"] == str(tiny_sae_dir)
    assert first["hook_point"] == "blocks.1.hook_resid_post"
    assert (first["n_pairs"], first["instruction"]) == (6, "planted")
    assert len(first["latents"]) == 5
    best = first["latents"][0]
    assert best["index"] == tiny.PLANTED_LATENT
    assert best["score"] == best["rate_positive"] - best["rate_negative"] == 1.0
    assert best["mean"] > 0
    assert best["std"] >= 0
    assert best["top_tokens"][0].strip() == tiny.PLANTED_ANSWER
    assert first["tokens_total"] >= first["tokens_computed"] > 0
    assert first["seconds"] > 0
    assert not first["cached"]
    again = with_sae(*arguments).answer
    assert again["cached"]
    assert again["tokens_computed"] == 0
    assert again["latents"] == first["latents"]


def test_rank_takes_an_instruction_its_wordings_and_your_contents(
    with_sae: Run, tmp_path: Path
) -> None:
    contents = tmp_path / "contents.txt"
    contents.write_text("\n".join(tiny.contents(4)), encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\ndescription: Mine.\nevaluator: language\nevaluator_parameters: {language: fr}\n"
        "wordings:\n  - {text: PLANT, language: en}\n  - {text: PLANT PLANT, language: en}\n",
        encoding="utf-8",
    )
    options = ("--contents", contents, "--read", "last-token", "--json")

    one = ("--wordings", "first", *options)
    first = with_sae("rank", "--instruction", own, "--n-contents", 3, *one).answer
    every = with_sae("rank", "--instruction", own, *options).answer
    shipped = with_sae("rank", "--instruction", "summarize", "--position", "before", *one).answer

    assert (first["instruction"], first["n_pairs"]) == ("own", 3)
    assert every["n_pairs"] == 8
    assert (shipped["instruction"], shipped["n_pairs"]) == ("summarize", 4)
    assert first["latents"][0]["index"] == tiny.PLANTED_LATENT


def test_rank_passes_the_selector_and_its_parameters_on(with_sae: Run, pairs_file: Path) -> None:
    options = ("rank", "--pairs", pairs_file, "--read", "last-token", "--json")

    found = with_sae(*options, "--selector-parameter", "compare=higher").answer
    other = with_sae(*options, "--selector", "mean_difference").answer

    assert found["selector_parameters"] == {"compare": "higher"}
    assert other["selector"] == "mean_difference"
    assert other["latents"][0]["score"] == other["latents"][0]["mean_difference"]
    refused = with_sae(*options, "--selector-parameter", "compare=sideways").refusal
    assert "sideways" in refused
    assert "mean_difference" in with_sae(*options, "--selector", "best").refusal


def test_rank_for_people_is_a_table_of_the_best(with_sae: Run, pairs_file: Path) -> None:
    ran = with_sae("rank", "--pairs", pairs_file, "--read", "last-token", "--top", 3)

    lines = ran.out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("latent"))
    assert ran.status == 0
    assert "promotes" in lines[header]
    assert lines[0].endswith("read at last prompt token")
    assert lines[header + 1].split()[0] == str(tiny.PLANTED_LATENT)
    assert lines[header + 4] == ""


def test_layer_chooses_the_sae_and_a_missing_one_lists_what_there_is(
    saif: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> None:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{below}")

    assert saif("latent", 3, "--layer", 0, "--json").answer["sae"] == str(below)
    assert saif("latent", 3, "--layer", 1, "--json").answer["sae"] == str(tiny_sae_dir)
    assert saif("latent", 3, "--sae", below, "--json").answer["sae"] == str(below)
    assert "layers 0, 1" in saif("latent", 3, "--layer", 9, "--json").refusal
    assert "--layer 1" in saif("latent", 3, "--layer", 1, "--sae", below, "--json").refusal
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{below},{below}/")
    assert "2 SAEs" in saif("latent", 3, "--layer", 0, "--json").refusal


def test_latent_lists_tokens_and_neighbours(with_sae: Run) -> None:
    detail = with_sae("latent", tiny.PLANTED_LATENT, "--json").answer

    token, logit = detail["promoted"][0]
    assert detail["index"] == tiny.PLANTED_LATENT
    assert token.strip() == tiny.PLANTED_ANSWER
    assert logit > detail["suppressed"][0][1]
    index, cosine = detail["neighbours"][0]
    assert index != tiny.PLANTED_LATENT
    assert -1 <= cosine <= 1.001
    text = with_sae("latent", tiny.PLANTED_LATENT)
    assert text.status == 0
    assert f'" {tiny.PLANTED_ANSWER}"' in text.out
    assert str(tiny.D_SAE - 1) in with_sae("latent", tiny.D_SAE, "--json").refusal


def test_generate_steers_with_named_latents(with_sae: Run) -> None:
    options = ("--max-new-tokens", 6, "--seed", 3, "--json")

    found = with_sae(
        "generate", "--prompt", "The cat", "--latents", f"{tiny.PLANTED_LATENT}:9", *options
    ).answer

    unsteered, steered = found["arms"]
    assert (unsteered["name"], steered["name"]) == ("unsteered", "steered")
    assert steered["text"].split()[:3] == [tiny.PLANTED_ANSWER] * 3
    assert tiny.PLANTED_ANSWER not in unsteered["text"].split()
    assert len(steered["token_ids"]) == 6
    (edit,) = found["recipe"]["request"]["arms"][1]["edits"]
    assert edit["latents"] == [{"index": tiny.PLANTED_LATENT, "coefficient": 9.0}]
    assert found["recipe"]["request"]["sampling"]["seed"] == 3
    assert found["seconds"] > 0
    assert found["sizes"][0] is None
    assert found["sizes"][1]["norm"] > 0


def test_generate_takes_mean_plus_beta_std_of_the_latents_it_ranks(
    with_sae: Run, pairs_file: Path
) -> None:
    ranked = ("--pairs", pairs_file, "--read", "last-token")
    made = ("--source-parameter", "top=2", "--source-parameter", "beta=0.5")
    asked = ("--prompt", "The cat", "--prompt", "The dog", "--max-new-tokens", 2)
    best = with_sae("rank", *ranked, "--top", 2, "--json").answer["latents"][0]

    found = with_sae("generate", *asked, *ranked, *made, "--json").answer

    request = found["recipe"]["request"]
    steered = request["arms"][1]
    (edit,) = steered["edits"]
    assert len(edit["latents"]) <= 2
    chosen = edit["latents"][0]
    assert chosen["index"] == tiny.PLANTED_LATENT
    assert chosen["coefficient"] == pytest.approx(best["mean"] + 0.5 * best["std"])
    assert request["instruction"] == "planted"
    assert steered["origin"]["source"] == "saif"
    assert steered["origin"]["parameters"] == {"top": 2, "beta": 0.5, "least_output_score": 0.0}
    assert [(arm["prompt"], arm["name"]) for arm in found["arms"]] == [
        ("The cat", "unsteered"),
        ("The cat", "steered"),
        ("The dog", "unsteered"),
        ("The dog", "steered"),
    ]
    text = with_sae("generate", *asked, *ranked, *made)
    assert text.status == 0
    assert text.out.count("steered:") == 4


def test_doctor_loads_everything(with_sae: Run, tiny_model_dir: Path, tiny_sae_dir: Path) -> None:
    card = {"text": "t", "n_tokens": 9, "explained_variance": 0.8, "l0": 16.0}
    cards = [{**card, "fvu": 0.2, "ce_recovered": 0.9}, {**card, "fvu": 0.4, "ce_recovered": 0.7}]
    path = tiny_sae_dir / "card.json"
    path.write_text(json.dumps({"dead_fraction": 0.25, "cards": cards}), encoding="utf-8")
    try:
        found = with_sae("doctor", "--json").answer
    finally:
        path.unlink()

    assert found["ok"] is True
    assert found["problems"] == []
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    assert {"python", "torch", "transformers", "sae-lens"} <= set(found["versions"])
    model = found["model"]
    assert (model["id"], model["path"]) == (str(tiny_model_dir), str(tiny_model_dir))
    assert (model["n_layers"], model["d_model"]) == (tiny.N_LAYERS, tiny.D_MODEL)
    assert len(model["sha256"]) == 64
    (sae,) = found["saes"]
    assert (sae["id"], sae["path"]) == (str(tiny_sae_dir), str(tiny_sae_dir))
    assert (sae["hook_point"], sae["d_sae"]) == ("blocks.1.hook_resid_post", tiny.D_SAE)
    assert sae["fvu"] == pytest.approx(0.3)
    assert sae["ce_recovered"] == pytest.approx(0.8)
    assert (sae["l0"], sae["dead_fraction"]) == (16.0, 0.25)
    assert sae["cards"] == cards
    assert 0 <= sae["fvu_at_load"] < 0.6


def test_doctor_reports_problems_and_goes_on(
    saif: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_sae_dir: Path
) -> None:
    (tmp_path / "broken").mkdir()
    monkeypatch.setenv("SAIF_SAES", f"{tmp_path / 'broken'},{tiny_sae_dir}")

    ran = saif("doctor", "--json")

    found = json.loads(ran.out)
    assert ran.status == 1
    assert found["ok"] is False
    broken, whole = found["saes"]
    assert (broken["layer"], broken["fvu_at_load"]) == (None, None)
    assert "sae-lens's format" in broken["unsupported"]
    assert (whole["id"], whole["layer"], whole["unsupported"]) == (str(tiny_sae_dir), 1, "")
    assert whole["fvu_at_load"] is not None
    assert any("broken" in problem for problem in found["problems"])
    missing = saif("doctor", "--model", tmp_path / "nothing")
    assert missing.status == 1
    assert "problem: " in missing.out


def test_a_bad_sae_among_others_stops_nothing(
    saif: Run, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path, pairs_file: Path
) -> None:
    bad = "gpt2-small-mlp-tm:blocks.3.hook_mlp_out"
    monkeypatch.setenv("SAIF_SAES", bad)
    assert "It reads the output of an MLP" in saif("rank", "--pairs", pairs_file).refusal
    monkeypatch.setenv("SAIF_SAES", f"{bad},{tiny_sae_dir}")
    assert saif("rank", "--pairs", pairs_file, "--json").answer["sae"] == str(tiny_sae_dir)


def test_fetch_says_where_the_model_is(saif: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    found = saif("fetch", "--json").answer

    assert (found["model"], found["path"]) == (str(tiny_model_dir), str(tiny_model_dir))
    assert "nothing" in saif("fetch", "--model", tmp_path / "nothing", "--json").refusal


def test_sessions_are_imported_listed_shown_exported_and_deleted(
    saif: Run, session_file: Path, tmp_path: Path
) -> None:
    imported = saif("session", "import", session_file, "--json").answer
    id = imported["id"]

    (listed,) = saif("session", "list", "--json").answer["sessions"]
    assert (listed["id"], listed["name"], listed["sae"]) == (id, "Speaks French", "s")
    for told in (saif("session", "list").out, saif("session", "show", id).out):
        assert moment_words(listed["updated_at"]) in told
        assert listed["updated_at"] not in told
    assert saif("session", "list", "--sae", "other", "--json").answer["sessions"] == []
    assert saif("session", "list", "--search", "Klingon", "--json").answer["sessions"] == []
    shown = saif("session", "show", id, "--json").answer
    (edit,) = shown["recipe"]["request"]["arms"][1]["edits"]
    assert edit["latents"] == [{"index": 7, "coefficient": 2.5}]
    assert "'other'" in saif("session", "show", id, "--sae", "other", "--json").refusal
    out = tmp_path / "again.json"
    assert saif("session", "export", id, "--out", out, "--json").answer["file"] == str(out)
    assert json.loads(saif("session", "export", id).out) == json.loads(out.read_text())
    assert json.loads(out.read_text())["session"]["name"] == "Speaks French"
    assert saif("session", "delete", id, "--json").answer["deleted"] is True
    assert saif("session", "list", "--json").answer["sessions"] == []
    assert id in saif("session", "show", id, "--json").refusal
    assert saif("session", "restore", id, "--json").answer["id"] == id
    assert saif("session", "show", id).out.count("steered:") == 2


def test_text_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    from app.cli.output import answering
    from app.cli.texts import session_text

    with answering(as_json=False) as answer:
        answer({}, session_text(make_session()))

    assert "oui \ufffd[31m" in capfd.readouterr().out


def test_nothing_but_the_answer_reaches_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from app.cli.output import answering

    with answering(as_json=True) as answer:
        print("from Python")  # noqa: T201
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        os.write(1, b"from a library\n")
        answer({"text": "é"}, "")
    print("after")  # noqa: T201

    out, err = capfd.readouterr()
    assert out == '{"text": "\\u00e9"}\nafter\n'
    assert {"from Python", "from a child", "from a library"} == set(err.split("\n")) - {""}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rank"], "--instruction"),
        (["rank", "--instruction", "sing"], "translate-to-french"),
        (["rank", "--instruction", "missing.yaml"], "missing.yaml"),
        (["rank", "--instruction", "summarize", "--top", "0"], "--top"),
        (["rank", "--instruction", "summarize", "--read", "page"], "--read"),
        (["rank", "--pairs", "missing.csv"], "missing.csv"),
        (["rank", "--pairs", "bad.jsonl"], "line 2"),
        (["rank", "--pairs", "bad.jsonl", "--instruction", "summarize"], "--pairs"),
        (["rank", "--instruction", "summarize", "--selector-parameter", "x"], "NAME=VALUE"),
        (["rank", "--instruction", "summarize", "--model", "no/such/folder"], "no/such/folder"),
        (["rank", "--instruction", "summarize", "--sae", "no-such-sae"], "no-such-sae"),
        (["latent"], "LATENT"),
        (["latent", "seven"], "LATENT"),
        (["generate", "--latents", "7:1"], "--prompt"),
        (["generate", "--prompt", "x"], "--latents"),
        (["generate", "--prompt", "x", "--latents", "7"], "INDEX:COEFFICIENT"),
        (["generate", "--prompt", "x", "--latents", "7:nan"], "INDEX:COEFFICIENT"),
        (["generate", "--prompt", "x", "--latents", "7:1,7:2"], "twice"),
        (
            ["generate", "--prompt", "x", "--latents", "7:1", "--source-parameter", "beta=1"],
            "'beta'",
        ),
        (["generate", "--prompt", "x", "--latents", "7:1", "--strength", "inf"], "--strength"),
        (["generate", "--prompt", "x", "--latents", "7:1", "--strength", "1000"], "--strength"),
        (["generate", "--prompt", "x", "--latents", "7:1", "--method", "magic"], "addition"),
        (["generate", "--prompt", "x", "--latents", "7:1", "--source", "saif"], "--source"),
        (["generate", "--prompt", "x", "--latents", "7:1", "--temperature", "nan"], "nan"),
        (["generate", "--prompt", "x", "--source-parameter", "top=1"], "--source"),
        (["generate", "--prompt", "", "--no-chat", "--latents", "7:1"], "rompt"),
        (["generate", "--prompt", "x", "--latents", "7:1", "--max-new-tokens", "99999"], "99999"),
        (["session"], "command"),
        (["session", "show", "none"], "none"),
        (["session", "import", "bad.jsonl"], "bad.jsonl"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--host", "256.0.0.1"], "256.0.0.1"),
        (["train-sae"], "--source"),
        (["train-sae", "--source", "good.jsonl", "--device", "toaster"], "toaster"),
        (["train-sae", "--source", "missing.jsonl"], "missing.jsonl"),
        (["train-sae", "--source", "bad.jsonl:0.5"], "bad.jsonl"),
        (["train-sae", "--source", "good.jsonl:0"], "share 0"),
        (["train-sae", "--source", "good.jsonl", "--layers", "one"], "--layers"),
        (["train-sae", "--source", "good.jsonl", "--layers", "2"], "0 to 1"),
        (["train-sae", "--source", "good.jsonl"], "--layers"),
        (["train-sae", "--source", "good.jsonl", "--k", "99", "--d-sae", "9"], "--k"),
        (["sing"], "sing"),
        (["--loud"], "--loud"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    with_sae: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    good = {"text": "The old cat sees the red house in the garden."}
    (tmp_path / "good.jsonl").write_text(json.dumps(good), encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text(
        '{"content": "a", "instruction": "b"}\n{"content": "a"}\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)

    assert says in with_sae(*arguments).refusal


def test_train_sae_resumes_and_its_sae_can_be_used(
    saif: Run, tmp_path: Path, pairs_file: Path
) -> None:
    texts = tiny.contents(1200, seed=5)
    source = tmp_path / "english.jsonl"
    documents = [{"text": " ".join(texts[n : n + 4])} for n in range(0, 1200, 4)]
    source.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    out = tmp_path / "trained"
    command = ("train-sae", "--source", f"{source}:0.5", "--layers", "0,1", "--tokens", 2000)
    command += ("--epochs", 60, "--d-sae", 64, "--k", 16, "--batch-tokens", 256, "--out", out)

    first = saif(*command, "--json").answer

    assert [sae["layer"] for sae in first["saes"]] == [0, 1]
    for sae in first["saes"]:
        (card,) = sae["cards"]
        assert (sae["d_sae"], card["text"]) == (64, "english")
        assert sae["tokens_seen"] >= 2000
        assert sae["sources"] == ["english.jsonl"]
        assert 0 < card["fvu"] < 0.6
        assert 0 < card["l0"] <= 16
        assert 0 <= sae["dead_fraction"] <= 1
    weights = out / "layer1" / "sae_weights.safetensors"
    written = weights.stat().st_mtime_ns
    (out / "layer0" / "card.json").unlink()
    again = saif(*command, "--json").answer
    assert again["saes"][0]["cards"][0]["l0"] == pytest.approx(first["saes"][0]["cards"][0]["l0"])
    assert weights.stat().st_mtime_ns == written
    assert "(k)" in saif(*command, "--k", 8, "--json").refusal
    ranked = saif("rank", "--pairs", pairs_file, "--sae", out / "layer1", "--json").answer
    assert ranked["sae"] == str(out / "layer1")


def test_exported_settings_are_those_loaded_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    settings = replace(
        load_settings({"SAIF_HOME": "/somewhere", "SAIF_SAES": "a,b"}), port=9000, host="::1"
    )

    export_settings(settings)

    assert load_settings() == settings


def test_ctrl_c_stops_the_work_and_answers_nothing(
    tiny_model_dir: Path, tiny_sae_dir: Path, pairs_file: Path
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "rank", "--pairs", str(pairs_file), "--json"]
    command += ["--model", str(tiny_model_dir), "--sae", str(tiny_sae_dir)]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


def test_help_names_every_command_without_loading_the_engine() -> None:
    code = (
        "import sys; from app.cli.main import main\ntry: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'streamlit', 'transformers', 'sqlalchemy', 'numpy', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    *usage, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    names = [*COMMANDS, *GROUPS]
    assert {"serve", "fetch", "doctor", "rank", "latent", "generate", "session"} <= {*names}
    for name in names:
        assert any(line.strip().startswith(f"{name} ") for line in usage)


@pytest.mark.parametrize(
    "command",
    ["serve", "fetch", "doctor", "rank", "latent", "generate", "train-sae"]
    + [f"session {name}" for name in ("list", "show", "export", "import", "delete")],
)
def test_every_command_documents_its_options(saif: Run, command: str) -> None:
    ran = saif(*command.split(), "--help")

    assert ran.status == 0
    for option in ("--model", "--sae", "--json", "--help"):
        assert option in ran.out
    assert ran.out.isascii() or "╭" not in ran.out


def test_serve_prints_the_address_once_it_answers(tiny_model_dir: Path, tiny_sae_dir: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli.main", "serve", "--port", str(port), "--json"]
    command += ["--model", str(tiny_model_dir), "--sae", str(tiny_sae_dir)]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    stop = threading.Timer(60, server.kill)
    stop.start()
    try:
        assert server.stdout
        answer = json.loads(server.stdout.readline())
        with urllib.request.urlopen(answer["url"], timeout=10) as page:
            body = page.read().decode()
        busy = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        server.send_signal(signal.SIGTERM)
        rest, status = server.stdout.read(), server.wait()
    finally:
        stop.cancel()
        server.kill()
        server.wait()
        server.stdout and server.stdout.close()

    assert answer["port"] == port
    assert answer["url"] == f"http://127.0.0.1:{port}/?sae={tiny_sae_dir}"
    assert answer["model"] == str(tiny_model_dir)
    assert "<html" in body
    assert (busy.returncode, busy.stdout, busy.stderr.count("\n")) == (2, "", 1)
    assert str(port) in busy.stderr
    assert (rest, status) == ("", 0)
