"""A source and a steering method in a folder of one's own, from the terminal to the replay.

That they are drawn in the forms is tested with the pages.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from saif_core.registry import use_plugins
from tests import tiny
from tests.cli import Run

SOURCE = '''
    """Source ``louder``: the mean difference, a few times."""


    def louder(study, *, times: float = 2.0):
        """The mean difference, multiplied.

        Args:
            times: by how much.
        """
        for layer in study.layers:
            yield study.edit(layer, vector=times * study.mean_difference(layer))
'''
METHOD = '''
    """Steering method ``half``: a share of the steering vector."""


    def half(resid, target, sae: "object | None", *, share: float = 0.5):
        """A share of the steering vector.

        Args:
            share: how much of it.
        """
        return share * target.direction.to(resid).expand(resid.shape)
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "plugins"
    for place, code in (("sources/louder.py", SOURCE), ("methods/half.py", METHOD)):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(code).lstrip(), encoding="utf-8")
    monkeypatch.setenv("SAIF_PLUGINS", str(folder))
    yield folder
    use_plugins([])


def pairs_file(folder: Path) -> Path:
    lines = ["positive,negative"]
    lines += [f'"{pair.positive}","{pair.negative}"' for pair in tiny.planted_pairs(6)]
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.usefixtures("plugins")
def test_both_write_texts_in_the_terminal_and_the_session_replays(
    saif: Run, tmp_path: Path, plugins: Path
) -> None:
    asked = ("generate", "--prompt", "The cat sees the house.", "--pairs", pairs_file(tmp_path))
    asked += ("--source", "louder", "--source-parameter", "times=3", "--method", "half")
    asked += ("--method-parameter", "share=0.25", "--read", "last-token", "--max-new-tokens", 6)

    made = saif(*asked, "--save", "mine", "--json").answer

    (edit,) = made["recipe"]["request"]["arms"][1]["edits"]
    assert (edit["method"], edit["method_parameters"]) == ("half", {"share": 0.25})
    assert saif("replay", made["session"], "--json").answer["equal"] is True
    file = plugins / "methods" / "half.py"
    file.write_text(file.read_text().replace("return share *", "return -share *"))
    ran = saif("replay", made["session"], "--json")
    assert ran.status == 1
    told = [one["what"] for one in json.loads(ran.out)["differs"]]
    assert any(what.endswith("half") for what in told)


@pytest.mark.usefixtures("plugins")
def test_both_are_measured_with_a_control_and_stand_in_the_report(
    saif: Run, tmp_path: Path
) -> None:
    instruction = tmp_path / "say-oui.yaml"
    instruction.write_text(
        "name: say-oui\nevaluator: keyword\nevaluator_parameters: {keyword: oui}\n"
        f"wordings: [{{text: {tiny.PLANTED_WORD}, language: en}}]\n"
    )
    contents = tmp_path / "contents.txt"
    contents.write_text("\n".join(tiny.contents(10)), encoding="utf-8")
    report = tmp_path / "report.html"
    asked = ("evaluate", "--instruction", instruction, "--contents", contents)
    asked += ("--n", 4, "--rank-contents", 4, "--source", "louder:half", "--strengths", "8,16")
    asked += ("--source-parameter", "louder.times=1,2", "--read", "last-token")

    found = saif(*asked, "--max-new-tokens", 4, "--html", report, "--json").answer

    settings = found["cells"]
    mine = [one for one in settings if one["arm"] == "louder by half"]
    assert {one["parameters"]["times"] for one in mine} == {1.0, 2.0}
    assert len(mine) == 4
    assert [one["of"] for one in settings if one["arm"] == "random"] == ["louder by half"]
    assert "louder by half" in report.read_text(encoding="utf-8")
