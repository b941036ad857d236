"""Can the first six tokens of a text say which strength it should go on with?

    python -m experiments.first_tokens

Several strengths write the first tokens of an answer with the same random draws, and one of them
goes on. What is known then of each: how unlikely its tokens are for the steered and for the
unsteered model, how far their distributions are apart, how much it repeats, and the strength. A
logistic regression that never saw the instruction says from these how likely the text is to become
useful, and the likeliest goes on. It is compared with one strength for all contents: the one next
to the mean of those chosen, and the best for the instruction, which a person would have to measure;
and with what could be reached by always choosing right.

The texts are those that `experiments.headline` chose its settings by.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from experiments.headline import Headline, Measuring, measuring, read_plan

if TYPE_CHECKING:
    from saif_core.models.loaded_model import LoadedModel

N_FIRST = 6
RIDGE = 1.0


class Start(NamedTuple):
    """The beginning of a text at one strength, and whether the whole text is useful."""

    instruction: str
    content: str
    strength: float
    features: tuple[float, ...]
    useful: bool


def features(model: "LoadedModel", row: Any, plain: Sequence[int]) -> tuple[float, ...]:
    """What is known of the first tokens: surprise, KL divergence, repetition."""
    from saif_core.writing.divergence import read_changes

    (changes,) = read_changes(model, [row], [plain])
    if not changes:
        return (0.0, 0.0, 0.0, 0.0)
    unsteered = [-one.log_prob for one in changes]
    own = [-one.log_prob - one.change for one in changes]
    repeated = 1 - len(set(row.token_ids)) / len(row.token_ids)
    return (
        float(np.mean(own)),
        float(np.mean(unsteered)),
        float(np.mean([one.kl for one in changes])),
        repeated,
    )


def fit(features: np.ndarray, useful: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression with a ridge; the last one is the constant."""
    with_one = np.column_stack([features, np.ones(len(features))])
    sign = np.where(useful, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (with_one @ weights)
        penalty = RIDGE * weights[:-1]
        slope = -(with_one * (sign / (1 + np.exp(margin)))[:, None]).sum(0)
        value = np.logaddexp(0, -margin).sum() + 0.5 * float(penalty @ weights[:-1])
        return value, slope + np.append(penalty, 0.0)

    found = optimize.minimize(loss, np.zeros(with_one.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


class Compared(NamedTuple):
    """Useful shares of one instruction's contents, by what decides the strength."""

    instruction: str
    n: int
    useful: dict[str, float]
    p: float


def compare(starts: Sequence[Start]) -> list[Compared]:
    """Each instruction, with the rule learned from the others."""
    found = []
    for name in dict.fromkeys(one.instruction for one in starts):
        own = [one for one in starts if one.instruction == name]
        others = [one for one in starts if one.instruction != name]
        x, y = _table(others)
        mean, spread = x.mean(0), x.std(0) + 1e-9
        weights = fit((x - mean) / spread, y)
        by_content: dict[str, list[Start]] = defaultdict(list)
        for one in own:
            by_content[one.content].append(one)
        rows = list(by_content.values())
        picked = []
        for row in rows:
            score = (_table(row)[0] - mean) / spread @ weights[:-1]
            picked.append(row[int(np.argmax(score))])
        strengths = sorted({one.strength for one in own})
        at = {s: [r.useful for row in rows for r in row if r.strength == s] for s in strengths}
        middle = min(strengths, key=lambda s: abs(s - np.mean([one.strength for one in picked])))
        useful = {
            "of the same mean": float(np.mean(at[middle])),
            "best measured": max(float(np.mean(v)) for v in at.values()),
            "by first tokens": float(np.mean([one.useful for one in picked])),
            "always right": float(np.mean([any(r.useful for r in row) for row in rows])),
        }
        pairs = list(zip([one.useful for one in picked], at[middle], strict=True))
        n_only, n_differ = sum(a and not b for a, b in pairs), sum(a != b for a, b in pairs)
        p = float(stats.binomtest(n_only, n_differ).pvalue) if n_differ else 1.0
        found.append(Compared(name, len(rows), useful, p))
    return found


def _table(starts: Sequence[Start]) -> tuple[np.ndarray, np.ndarray]:
    """Features with the strength and its square, and what is useful."""
    x = np.array([[*one.features, one.strength, one.strength**2] for one in starts])
    return x, np.array([one.useful for one in starts])


def read_starts(
    plan: dict[str, Any], arm: dict[str, Any], name: str, measure: Measuring
) -> list[Start]:
    """The first tokens of an arm's texts at every strength, on the choosing contents."""
    from saif_core.inputs.shipped import shipped_contents
    from saif_core.records.steering import UNSTEERED, Arm
    from saif_core.steering.arms import ArmBuilder
    from saif_core.writing.decoder import Row, RowRequest

    evaluation, texts = Headline(plan, name, measure).choosing(arm)
    model, sampling = measure.model, evaluation.request.sampling
    builder = ArmBuilder(model, measure.saes, measure.tensors)
    contents = shipped_contents()[slice(*plan["choose"]["contents"])]
    prompts = {c: builder.prompt(UNSTEERED, c, sampling) for c in contents}
    found = []
    for text in texts:
        setting = evaluation.cells[text.cell].setting
        made = evaluation.made_for(setting)
        assert made is not None
        steered = Arm("steered", edits=made.edits, strength=setting.strength or 0.0)
        plain = prompts[text.content]
        request = RowRequest(plain, N_FIRST, steering=builder.write(steered).steering)
        ids = model.tokenizer.encode(text.text, add_special_tokens=False)[:N_FIRST]
        told = features(model, Row(request, token_ids=ids), plain)
        found.append(Start(name, text.content, setting.strength or 0.0, told, text.is_useful))
    return found


def main() -> None:
    """Print a table for each arm of the plan that steers by itself."""
    plan, _ = read_plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=plan["instructions"], help="instructions")
    options = parser.parse_args()
    with measuring(plan) as measure:
        for arm in plan["arms"]:
            if arm.get("prompted") or arm["source"] == "mean_difference":
                continue
            starts = [s for name in options.only for s in read_starts(plan, arm, name, measure)]
            sys.stdout.write(f"\n{arm['name']}\n")
            for one in compare(starts):
                told = ", ".join(f"{how} {share:.2f}" for how, share in one.useful.items())
                sys.stdout.write(f"  {one.instruction:22} n {one.n} {told}, p {one.p:.3g}\n")


if __name__ == "__main__":
    main()
