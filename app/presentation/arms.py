"""What an arm does, in words: plain text, which pages escape."""

from saif_core.records.ranking import ReadPosition
from saif_core.records.steering import Arm, SteeringEdit, SteeringScope

# What each kind of arm is called on every page and in every report.
ARM_NAMES = {
    "unsteered": "unsteered",
    "prompted": "prompted",
    "saif": "SAIF latents",
    "one-latent": "one latent",
    "clamp": "clamped latents",
    "ablate": "ablated latents",
    "denoised": "denoised mean difference",
    "mean-difference": "mean difference",
    "random": "random latents",
    "flipped": "flipped sign",
    "logit-bias": "logit bias",
}
SCOPES: dict[SteeringScope, str] = {
    "generated": "the answer only",
    "first": "the first tokens of the answer",
    "last-token": "the last prompt token only",
    "prompt": "the prompt only",
    "all": "prompt and answer",
}
READ_WORDS: dict[ReadPosition, str] = {
    "response": "The answer",
    "last-token": "Last prompt token",
}


def describe_arm(arm: Arm) -> str:
    """What an arm does, as one line."""
    if arm.kind == "unsteered":
        return "nothing is added"
    if arm.kind == "prompted":
        return f"the prompt with “{arm.instruction}” {arm.position} it"
    facts = [_what(arm), f"strength {arm.strength:g}"]
    if arm.kind != "logit-bias" and (arm.scope != "generated" or arm.decay or arm.keep_norm):
        facts.append(scope_words(arm))
    return " · ".join(facts)


def scope_words(arm: Arm) -> str:
    """Which tokens an arm steers, and how that changes along the text."""
    words = [SCOPES[arm.scope]]
    if arm.scope == "first":
        count = "token" if arm.first == 1 else f"{arm.first} tokens"
        words = [f"the first {count} of the answer"]
    if arm.decay:
        power = "" if arm.decay_power == 1 else f" ^ {arm.decay_power:g}"
        words.append(f"strength at token t over (1 + {arm.decay:g} × t){power}")
    if arm.keep_norm:
        words.append("norm kept")
    return ", ".join(words)


def _what(arm: Arm) -> str:
    what = " and ".join(_what_is_written(edit) for edit in arm.edits) or "nothing yet"
    return {
        "random": f"random latents of the norm of {what}, seed {arm.seed}",
        "flipped": f"the opposite of {what}",
        "logit-bias": f"the tokens promoted by {what}, added to the logits alone",
    }.get(arm.kind, what)


def _what_is_written(edit: SteeringEdit) -> str:
    if not edit.latents:
        return f"a vector after block {edit.layer}" if edit.vector else "no latents"
    n = len(edit.latents)
    what = f"latent {edit.latents[0].index}" if n == 1 else f"{n} latents"
    written = {"clamp": f"{what} set to their coefficients", "ablate": f"{what} taken out"}
    if edit.method in written:
        return written[edit.method]
    return what if edit.method == "addition" else f"{what} by {edit.method.replace('_', ' ')}"
