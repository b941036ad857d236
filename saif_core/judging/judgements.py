"""Step 8: a text → a judgement by the instruction's evaluator."""

from collections.abc import Iterable

from saif_core.errors import SaifError
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.records.prompts import Instruction, InstructionPosition, PromptPair
from saif_core.records.steering import Arm
from saif_core.records.texts import Generation, Judgement
from saif_core.registry import EVALUATORS

NOBODY_JUDGES = "the instruction has no evaluator, so nobody judges its texts"


def pair_for(content: str, wording: str, position: InstructionPosition) -> PromptPair:
    """A content and how it was, or would be, prompted with a wording of the instruction."""
    return PromptPair(join_instruction(content, wording, position), content, content, wording)


def judge_text(instruction: Instruction, pair: PromptPair, text: str) -> Judgement:
    """Whether a text follows the instruction; grade None with the reason if that is unknown.

    Args:
        pair: what the text answers; its instruction is the wording.
    """
    if not instruction.evaluator:
        return Judgement(None, NOBODY_JUDGES)
    try:
        judge = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
        judgement: Judgement = judge(pair, text)
    except SaifError as error:
        return Judgement(None, str(error))
    return judgement


def judge_generations(
    instruction: Instruction, arms: Iterable[Arm], generations: Iterable[Generation]
) -> list[Judgement]:
    """A judgement of every text, by what its own arm was told, else by the first wording."""
    by_name = {arm.name: arm for arm in arms}
    usual = instruction.wordings[0].text if instruction.wordings else ""
    found = []
    for generation in generations:
        arm = by_name.get(generation.arm)
        told = arm if arm is not None and arm.is_told else None
        pair = pair_for(
            generation.prompt,
            told.instruction.strip() if told else usual,
            told.position if told else "after",
        )
        found.append(judge_text(instruction, pair, generation.text))
    return found
