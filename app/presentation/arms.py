"""What an arm does, in words: plain text, which pages escape."""

from app.presentation.figures import number_words
from saif_core.records.evaluation import CONTROLS
from saif_core.records.ranking import ReadPosition
from saif_core.records.steering import Arm, ControlKind, Edit, Schedule, SteeringScope

# What controls are called on every page and in every report; other arms go by their own names.
CONTROL_WORDS: dict[ControlKind, str] = {
    "random": "random",
    "flipped": "flipped sign",
    "logit-bias": "logit bias",
    "cue-token": "cue token",
}
CONTROL_HELP: dict[ControlKind, str] = {
    "random": "as much at every position, by random latents or in a random direction",
    "flipped": "the same with its sign flipped",
    "logit-bias": "what it adds to the logits directly, there alone",
    "cue-token": "the token that it promotes most, forced once, and nothing added",
}
BASELINE_HELP = {
    "unsteered": "the content as it is, nothing added",
    "prompted": "the content with the instruction in words",
}
SCOPES: dict[SteeringScope, str] = {
    "generated": "the answer only",
    "first": "the first tokens of the answer",
    "last-token": "the last prompt token only",
    "prompt": "the prompt only",
    "prompt-ends": "both ends of the prompt only",
    "all": "prompt and answer",
}
READ_WORDS: dict[ReadPosition, str] = {
    "response": "The answer",
    "last-token": "Last prompt token",
}


def read_words(read: ReadPosition) -> str:
    """Where activations were read, within a sentence."""
    return READ_WORDS[read].lower()


def arm_words(arm: str) -> str:
    """The name of an arm of an evaluation as people read it."""
    for control in CONTROLS:
        if arm == control:
            return CONTROL_WORDS[control]
    return arm.replace("_", " ")


def describe_arm(arm: Arm) -> str:
    """What an arm does, as one line."""
    if arm.kind == "unsteered":
        return "nothing is added"
    if arm.kind == "prompted":
        return f"the prompt with “{arm.instruction}” {arm.position} it"
    facts = [_what(arm), f"strength {number_words(arm.strength)}"]
    if arm.is_told:
        facts.append(f"“{arm.instruction}” {arm.position} the prompt")
    scheduled = _schedule(arm) != Schedule() or any(edit.keep_norm for edit in arm.edits)
    if arm.kind not in ("logit-bias", "cue-token") and scheduled:
        facts.append(scope_words(arm))
    return " · ".join(facts)


def gate_names(arm: Arm) -> list[str]:
    """What each gate of an arm belongs to, in the order in which its texts tell of them."""
    names = []
    for edit in arm.edits:
        where = f" at layer {edit.layer}" if len(arm.edits) > 1 else ""
        latents = [f"latent {latent.index}{where}" for latent in edit.latents]
        names += latents or [f"the gate{where}"]
    return names


def scope_words(arm: Arm) -> str:
    """Which tokens an arm steers, and how that changes along the text."""
    schedule = _schedule(arm)
    words = [SCOPES[schedule.scope]]
    if schedule.scope == "first":
        count = "token" if schedule.first == 1 else f"{schedule.first} tokens"
        words = [f"the first {count} of the answer"]
    if schedule.scope == "prompt-ends":
        words = [f"the first {schedule.prompt_first} and last {schedule.prompt_last} prompt tokens"]
    if schedule.decay:
        power = "" if schedule.decay_power == 1 else f" ^ {number_words(schedule.decay_power)}"
        words.append(f"strength at token t over (1 + {number_words(schedule.decay)} × t){power}")
    if any(edit.keep_norm for edit in arm.edits):
        words.append("norm kept")
    return ", ".join(words)


def _schedule(arm: Arm) -> Schedule:
    """The arm's schedule, or the one that what it writes was learned for."""
    return next((edit.schedule for edit in arm.edits if edit.schedule), arm.schedule)


def _what(arm: Arm) -> str:
    what = " and ".join(_what_is_written(edit) for edit in arm.edits) or "nothing yet"
    return {
        "random": f"as much as {what} in a random direction, seed {arm.seed}",
        "flipped": f"the opposite of {what}",
        "logit-bias": f"the tokens promoted by {what}, added to the logits alone",
        "cue-token": f"the token promoted most by {what}, forced once",
    }.get(arm.kind, what)


def _what_is_written(edit: Edit) -> str:
    if not edit.latents:
        return f"a vector after block {edit.layer}" if edit.tensors else "no latents"
    n = len(edit.latents)
    what = f"latent {edit.latents[0].index}" if n == 1 else f"{n} latents"
    written = {"clamp": f"{what} set to their coefficients", "ablate": f"{what} taken out"}
    if edit.method in written:
        return written[edit.method]
    return what if edit.method == "addition" else f"{what} by {edit.method.replace('_', ' ')}"
