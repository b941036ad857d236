"""Target rules: answers that follow an instruction, made of any answer."""

import json

import pytest

from saif_core.errors import PromptPairError
from saif_core.finding.study import Study
from saif_core.inputs.instruction_files import check_instruction, load_instruction
from saif_core.inputs.shipped import shipped_instructions
from saif_core.judging.judgements import judge_text, pair_for
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import RankingRequest
from saif_core.registry import TARGET_RULES
from tests import tiny

ANSWER = "Bread is baked, every morning, in Paris. I like it! It goes well with"
CONTENT = "Tell me about bread."
ODD = ["", " ", "\n\n", ".", "…", "\ud800", "“", '"', "a" * 5000, "1. 2. 3.", "ß\u0130", "- \n- "]
RULED = {name: one for name, one in shipped_instructions().items() if one.target_rule}


@pytest.mark.parametrize("name", TARGET_RULES.names())
def test_odd_answers_never_raise_and_give_a_text(name: str) -> None:
    rule = TARGET_RULES.bind(name, {})
    assert not TARGET_RULES.get(name).parameters, "an instruction names its rule without parameters"
    for odd in ODD:
        assert isinstance(rule(odd), str)
    assert rule("") == ""


@pytest.mark.parametrize("name", RULED)
def test_the_rule_of_a_shipped_instruction_makes_what_its_evaluator_calls_strict(name: str) -> None:
    instruction = RULED[name]
    text = TARGET_RULES.bind(instruction.target_rule, {})(ANSWER)
    wording = instruction.wordings[0].text
    assert judge_text(instruction, pair_for(CONTENT, wording, "after"), text).grade == "strict"


def test_every_format_and_style_that_is_shipped_has_a_rule() -> None:
    assert {one.target_rule for one in RULED.values()} == set(TARGET_RULES.names())


def made(name: str, answer: str = ANSWER) -> str:
    return TARGET_RULES.bind(name, {})(answer)


def test_what_each_rule_makes() -> None:
    assert json.loads(made("json_object")) == {"answer": "Bread is baked, every morning, in Paris."}
    assert json.loads(made("json_object", 'He said "no". Yes')) == {"answer": 'He said "no".'}
    assert made("bullet_list") == "- Bread is baked, every morning, in Paris.\n- I like it!"
    assert made("no_commas") == ANSWER.replace(",", "")
    assert made("capitals") == ANSWER.upper()
    assert made("lowercase") == ANSWER.lower()
    assert made("question") == "Is it true that bread is baked, every morning, in Paris?"
    assert made("question", "I like it. Yes.") == "Is it true that I like it?"
    assert made("question", "Who is it? He.") == "Who is it?"
    assert made("json_object", "No end in sight") == ""


YAML = """name: shout
evaluator: casing
evaluator_parameters: {casing: upper}
target_rule: capitals
wordings: [Shout.]
"""


def test_an_instruction_file_names_its_rule() -> None:
    instruction = load_instruction(YAML, source="shout.yaml")
    assert instruction.target_rule == "capitals"
    check_instruction(instruction, source="shout")
    with pytest.raises(
        PromptPairError, match=r"shout.yaml.*4.*no target rule 'shouting'.*capitals"
    ):
        load_instruction(YAML.replace("capitals", "shouting"), source="shout.yaml")
    plain = YAML.replace("target_rule: capitals\n", "")
    assert load_instruction(plain, source="shout.yaml").target_rule == ""


def test_targets_are_made_of_the_models_own_answers(model: LoadedModel) -> None:
    upper = Instruction(
        "shout", "", "casing", {"casing": "upper"}, (Wording("Shout."),), "capitals"
    )
    request = RankingRequest("", "shout", tiny.planted_pairs(4), read="last-token", judged_by=upper)
    study = Study(model, [], request, layers=[0])
    own = study.answers(n=4, max_new_tokens=6)
    targets = study.targets(n=4, max_new_tokens=6)
    assert len(targets) == 4
    by_prompt = {tuple(model.encode_prompt(a.pair.negative, chat=True)): a for a in own}
    for target in targets:
        answer = model.decode(target.answer)
        assert answer == answer.upper() != answer.lower()
        assert len(target.answer) == 6
        assert target.prompt in by_prompt
    assert len({target.answer for target in targets}) > 1
