"""Files dropped into a folder of the user's own: the engine takes them up without a change."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from saif_core.catalog import Catalog
from saif_core.engine.engine import Engine
from saif_core.errors import SteeringError, UnknownNameError
from saif_core.judging import fluency
from saif_core.records.evaluation import (
    CONTROLS,
    Candidate,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.questions import LearnRequest
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest, Sampling
from saif_core.registry import (
    EVALUATORS,
    REGISTRIES,
    RESERVED,
    SELECTORS,
    SOURCES,
    STEERING_METHODS,
    Registry,
    use_plugins,
)
from tests import tiny
from tests.plugins import OWN_WRITE, take_up

SOURCE = """
    from saif_core.records.ranking import ChosenLatent


    def boldest(study, *, top: int = 2):
        '''The latents that fire most strongly with the instruction.

        Args:
            top: how many.
        '''
        for layer in study.layers:
            means = study.latents(layer)[0].mean() - study.latents(layer)[1].mean()
            chosen = means.argsort()[::-1][:top]
            yield study.edit(layer, latents=[ChosenLatent(int(i), float(means[i])) for i in chosen])
"""
METHOD = """
    def share_of_norm(resid, target, sae, *, share: float = 0.4):
        '''The steering vector as long as a share of the residual stream.

        Args:
            share: of its norm.
        '''
        unit = (target.direction / target.direction.norm()).to(resid)
        return share * resid.norm(dim=-1, keepdim=True) * unit
"""
SELECTOR = """
    def rise(positive, negative, *, floor: float = 0.0):
        '''How much more a latent fires with the instruction.

        Args:
            floor: taken from every score.
        '''
        return positive.mean() - negative.mean() - floor
"""
EVALUATOR = """
    from saif_core.records.texts import Judgement


    def starts(pair, generation, *, word: str = "oui"):
        '''Whether the text starts with a word.

        Args:
            word: the word.
        '''
        follows = generation.strip().startswith(word)
        return Judgement("strict" if follows else "none", f"It starts with {generation[:9]!r}.")
"""
FILES = {
    "sources__boldest": SOURCE,
    "sources__swell": OWN_WRITE,
    "methods__share_of_norm": METHOD,
    "selectors__rise": SELECTOR,
    "evaluators__starts": EVALUATOR,
}
CONTENTS = tuple(tiny.contents(10, seed=3))
INSTRUCTION = Instruction("planted", "", "starts", {"word": "oui"}, (Wording(tiny.PLANTED_WORD),))


class Kept:
    """Keeps evaluations with their texts."""

    def __init__(self) -> None:
        self.texts: dict[str, Sequence[EvaluationText]] = {}

    def save(self, evaluation: Evaluation, texts: Sequence[EvaluationText]) -> None:
        self.texts[evaluation.id] = texts

    def of(self, evaluation: Evaluation, arm: str) -> list[str]:
        numbers = [n for n, one in enumerate(evaluation.cells) if one.setting.arm == arm]
        return [text.text for text in self.texts[evaluation.id] if text.cell in numbers]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def engine(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path: Path, kept: Kept, plugin_folder: Path
) -> Iterator[Engine]:
    take_up(plugin_folder, **FILES)
    opened = Engine(
        Catalog(tmp_path / "home", extra_saes=[str(tiny_sae_dir)]),
        model_id=str(tiny_model_dir),
        cache=tiny.MemoryCache(),
        evaluations=kept,
        device="cpu",
    )
    yield opened
    opened.close()


@pytest.fixture
def ranking_request(tiny_sae_dir: Path) -> RankingRequest:
    return RankingRequest(
        str(tiny_sae_dir),
        "planted",
        tiny.planted_pairs(6),
        read="last-token",
        selector="rise",
        selector_parameters={"floor": 0.5},
        judged_by=INSTRUCTION,
    )


@pytest.fixture
def evaluation_request(tiny_sae_dir: Path) -> EvaluationRequest:
    return EvaluationRequest(
        INSTRUCTION,
        (str(tiny_sae_dir),),
        rank_contents=CONTENTS[:4],
        rank_wordings=(tiny.PLANTED_WORD,),
        test_contents=CONTENTS[4:],
        test_wordings=(tiny.PLANTED_WORD,),
        candidates=(
            Candidate("boldest", {"top": (1, 2)}, "share_of_norm", {"share": (0.2, 0.8)}),
            Candidate("boldest"),
            Candidate("swell", {"amount": (0.3,)}),
            Candidate("saif"),
        ),
        controls=CONTROLS,
        strengths=(1.0, 2.0),
        read="last-token",
        selector="rise",
        # Four times one word would be a loop, which is a broken text.
        sampling=Sampling(max_new_tokens=3),
    )


@pytest.fixture(autouse=True)
def senseless_is_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a random model is steered to write, it finds unlikely."""
    monkeypatch.setattr(fluency, "WORST_PERPLEXITY", 1e9)


def test_dropped_files_are_listed_with_their_parameters_and_help(engine: Engine) -> None:
    del engine
    method = STEERING_METHODS.get("share_of_norm")
    assert method.help == "The steering vector as long as a share of the residual stream."
    assert [(one.name, one.default, one.help) for one in method.parameters] == [
        ("share", 0.4, "of its norm.")
    ]
    assert len(method.file_sha256) == 64
    assert {"boldest", "swell", "saif"} <= set(SOURCES.names())
    assert SOURCES.get("swell").write is not None
    assert "rise" in SELECTORS
    assert "starts" in EVALUATORS


def test_dropped_files_rank_learn_and_generate(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    ranking = engine.ask(ranking_request)
    assert ranking.selector == "rise"
    assert ranking.latents[0].index == tiny.PLANTED_LATENT
    asked = LearnRequest(ranking_request, "boldest", {"top": 1}, "share_of_norm", {"share": 0.6})
    learned = engine.ask(asked)
    (edit,) = learned.edits
    assert edit.latents[0].index == tiny.PLANTED_LATENT
    assert (edit.method, edit.method_parameters) == ("share_of_norm", {"share": 0.6})
    assert learned.origin.file_sha256 == SOURCES.get("boldest").file_sha256
    arms = [UNSTEERED, Arm("steered", edits=learned.edits, origin=learned.origin)]
    arms += [Arm(kind, kind, learned.edits) for kind in CONTROLS]
    result = engine.ask(GenerationRequest(("one two",), tuple(arms), Sampling(max_new_tokens=3)))
    texts = {made.arm: made.text for made in result.generations}
    assert texts["steered"].split() == ["oui"] * 3
    assert "oui" not in texts["unsteered"] + texts["random"] + texts["flipped"]
    sha256 = STEERING_METHODS.get("share_of_norm").file_sha256
    assert result.recipe.plugin_sha256s == {"share_of_norm": sha256}


def test_dropped_files_are_evaluated_with_controls(
    engine: Engine, evaluation_request: EvaluationRequest
) -> None:
    evaluation = engine.ask(evaluation_request)
    arms = ["boldest by share_of_norm", "boldest", "swell", "saif"]
    assert [best.arm for best in evaluation.best] == ["unsteered", "prompted", *arms]
    best = {one.arm: evaluation.cells[one.cell] for one in evaluation.best}
    assert best["unsteered"].rates.strict == 0
    assert best["prompted"].rates.strict == 1
    for arm in arms:
        assert best[arm].rates.strict == 1, arm
        controls = {one.setting.arm: one for one in evaluation.cells if one.setting.of == arm}
        assert set(controls) == set(CONTROLS)
        assert controls["random"].rates.strict == controls["flipped"].rates.strict == 0
        assert controls["cue-token"].rates.strict == 1  # the forced word is the first
        assert all(
            control.setting.parameters == best[arm].setting.parameters
            for control in controls.values()
        )
    tried = [one.setting for one in evaluation.cells if one.setting.arm == arms[0]]
    assert {(s.parameters["top"], s.parameters["share"]) for s in tried} == {
        (top, share) for top in (1, 2) for share in (0.2, 0.8)
    }
    assert evaluation.best_sae_arm in ("boldest by share_of_norm", "boldest", "saif")
    assert set(evaluation.plugin_sha256s) == {
        "evaluator starts",
        "method share_of_norm",
        "selector rise",
        "source boldest",
        "source saif",
        "source swell",
    }


@pytest.mark.parametrize(
    ("file", "change", "arm"),
    [
        ("methods__share_of_norm", ("return share", "return -share"), "boldest by share_of_norm"),
        ("sources__boldest", ("argsort()[::-1]", "argsort()      "), "boldest"),
        ("sources__swell", ("return target", "return -target"), "swell"),
        ("selectors__rise", ("positive.mean() - negative", "negative"), "saif"),
    ],
)
def test_an_edited_file_writes_new_texts_although_the_old_are_kept(
    engine: Engine,
    evaluation_request: EvaluationRequest,
    kept: Kept,
    plugin_folder: Path,
    file: str,
    change: tuple[str, str],
    arm: str,
) -> None:
    first = engine.ask(evaluation_request)
    again = engine.ask(evaluation_request)
    assert kept.of(first, arm) == kept.of(again, arm)
    take_up(plugin_folder, **{**FILES, file: FILES[file].replace(*change)})
    edited = engine.ask(evaluation_request)
    assert kept.of(edited, arm) != kept.of(first, arm)
    for baseline in ("unsteered", "prompted"):
        assert kept.of(edited, baseline) == kept.of(first, baseline)
    take_up(plugin_folder, **FILES)
    assert kept.of(engine.ask(evaluation_request), arm) == kept.of(first, arm)


def test_an_edited_evaluator_judges_anew(
    engine: Engine, evaluation_request: EvaluationRequest, kept: Kept, plugin_folder: Path
) -> None:
    first = engine.ask(evaluation_request)
    take_up(
        plugin_folder, **{**FILES, "evaluators__starts": EVALUATOR.replace('"strict"', '"loose"')}
    )
    edited = engine.ask(evaluation_request)
    assert kept.of(edited, "prompted") == kept.of(first, "prompted")
    assert [one.rates.strict for one in edited.cells[:2]] == [0, 0]
    assert [one.rates.loose for one in edited.cells[:2]] == [0, 1]


def test_a_change_within_the_same_second_is_seen(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number in range(9):
        take_up(
            plugin_folder, methods__still=f"def still(resid, target, sae):\n    return {number}\n"
        )
        found: Callable[..., int] = STEERING_METHODS.get("still").function  # type: ignore[assignment]
        assert found(None, None, None) == number
    assert [path.name for path in (plugin_folder / "methods").iterdir()] == ["still.py"]


@pytest.mark.parametrize("kind", ["selectors", "sources", "methods", "evaluators"])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("def broken(:\n", "SyntaxError"),
        ("def other():\n    pass\n", "no function 'broken'"),
        ("def broken(x, *, shape: tuple):\n    pass\n", "'shape'"),
    ],
)
def test_a_broken_file_stops_the_start_with_its_name(
    plugin_folder: Path, kind: str, source: str, words: str
) -> None:
    with pytest.raises(ImportError, match=r"broken\.py") as caught:
        take_up(plugin_folder, **{f"{kind}__broken": source})
    assert words in str(caught.value)
    assert str(plugin_folder / kind) in str(caught.value)
    assert all("broken" not in registry.names() for registry in REGISTRIES)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_name_that_is_taken_is_refused(
    plugin_folder: Path,
    registry: Registry,  # type: ignore[type-arg]
) -> None:
    kind = registry.package.rpartition(".")[2]
    reserved = RESERVED if registry is SOURCES else frozenset()
    for name in [*registry.names(), *reserved]:
        with pytest.raises(ImportError, match=f"{name}.py in .*/{kind} has the name of another"):
            take_up(plugin_folder, **{f"{kind}__{name}": f"def {name}(x):\n    return x\n"})
        (plugin_folder / kind / f"{name}.py").unlink()
    use_plugins([plugin_folder])


def test_two_folders_with_one_name_are_refused(plugin_folder: Path) -> None:
    folders = [plugin_folder / "a", plugin_folder / "b"]
    for folder in folders:
        take_up(folder, sources__boldest=SOURCE)
    with pytest.raises(ImportError, match=r"boldest\.py in .*b/sources has the name"):
        use_plugins(folders)


def test_a_source_that_writes_itself_has_no_name_of_a_method(plugin_folder: Path) -> None:
    source = OWN_WRITE.replace("swell", "clamp")
    with pytest.raises(ImportError, match=r"clamp\.py writes its edits itself"):
        take_up(plugin_folder, sources__clamp=source)


def test_parameters_of_one_name_cannot_be_told_apart(
    engine: Engine, evaluation_request: EvaluationRequest, plugin_folder: Path
) -> None:
    take_up(plugin_folder, methods__share_of_norm=METHOD.replace("share:", "top:"))
    same = Candidate("boldest", method="share_of_norm")
    with pytest.raises(SteeringError, match="both have a parameter 'top'"):
        engine.submit(replace(evaluation_request, candidates=(same,)))


def test_files_that_are_gone_are_not_offered_any_more(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    learned = engine.ask(LearnRequest(ranking_request, "swell"))
    arm = Arm("steered", edits=learned.edits)
    use_plugins([])
    with pytest.raises(UnknownNameError, match="no selector called 'rise'"):
        engine.ask(ranking_request)
    with pytest.raises(UnknownNameError, match="no steering method called 'swell'"):
        engine.ask(GenerationRequest(("one",), (arm,)))


def test_helpers_are_no_plug_ins(plugin_folder: Path) -> None:
    take_up(plugin_folder, sources___shared="raise RuntimeError('a helper is not run')\n")
    assert "_shared" not in SOURCES


def test_a_method_without_a_word_on_its_sae_takes_vectors_too(plugin_folder: Path) -> None:
    annotated = METHOD.replace("target, sae,", "target, sae: 'LoadedSae',")
    for source, needs_sae in (
        (METHOD, False),
        (annotated, True),
        (annotated.replace("'LoadedSae'", "'LoadedSae | None'"), False),
        (annotated.replace("'LoadedSae'", "'Optional[LoadedSae]'"), False),
    ):
        take_up(plugin_folder, methods__share_of_norm=source)
        assert STEERING_METHODS.get("share_of_norm").needs_sae == needs_sae


def test_parameters_of_dropped_files_are_checked(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    with pytest.raises(
        SteeringError, match="'top' of the source 'boldest' has to be a whole number"
    ):
        engine.ask(LearnRequest(ranking_request, "boldest", {"top": 1.5}))
    with pytest.raises(SteeringError, match="no parameter 'amount'"):
        engine.ask(LearnRequest(ranking_request, "boldest", {}, "share_of_norm", {"amount": 1}))
