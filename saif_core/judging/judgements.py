"""Step 8: a text → a judgement by the instruction's evaluator."""

from saif_core.errors import SaifError
from saif_core.records.prompts import Instruction, PromptPair
from saif_core.records.texts import Generation, Judgement


def judge_text(instruction: Instruction, generation: Generation) -> Judgement:
    """Whether a text follows the instruction; grade None with the reason if that is unknown."""
    from saif_core.registry import EVALUATORS

    wording = instruction.wordings[0].text if instruction.wordings else ""
    prompt = generation.prompt
    pair = PromptPair(f"{prompt} {wording}".strip(), prompt, prompt, instruction.name)
    try:
        judge = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
        judgement: Judgement = judge(pair, generation.text)
    except SaifError as error:
        return Judgement(None, str(error))
    return judgement
