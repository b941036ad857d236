"""How true the first estimate of an evaluation is: seconds taken over seconds estimated.

    python -m benchmarks.estimate

The speed is measured as the Evaluate page measures it, then evaluations of several sizes run; on
the machine as it is, and beside as many busy processes as there are cores. Nothing is cached.
"""

import os
import time

from app.dashboard.evaluate.form import cost_of
from app.settings import be_courteous, load_settings
from benchmarks.neighbour import busy
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.records.evaluation import Candidate, EvaluationRequest
from saif_core.records.steering import Sampling

SAE = f"{DEFAULT_MODEL}/layer14"
# Strengths and contents: from a first look to what a report is made of.
SIZES = {"small": ((1.0,), 6), "middle": ((0.5, 1.0, 2.0), 12), "large": ((0.5, 1.0, 1.5, 2.0), 24)}
N_RANKED = 8


def request_of(strengths: tuple[float, ...], n_contents: int) -> EvaluationRequest:
    """An evaluation of SAIF's latents beside its baselines and control."""
    contents = shipped_contents()
    instruction = shipped_instructions()["translate-to-french"]
    wordings = tuple(wording.text for wording in instruction.wordings[:2])
    return EvaluationRequest(
        instruction=instruction,
        sae_ids=(SAE,),
        rank_contents=tuple(contents[:N_RANKED]),
        rank_wordings=wordings,
        test_contents=tuple(contents[N_RANKED : N_RANKED + n_contents]),
        test_wordings=wordings,
        candidates=(Candidate("saif"),),
        strengths=strengths,
        sampling=Sampling(max_new_tokens=40, temperature=0.5),
    )


def main() -> None:
    """Print a table: each size, idle and busy."""
    be_courteous()  # before torch is loaded
    from saif_core.catalog import Catalog
    from saif_core.evaluating.evaluation import evaluate
    from saif_core.writing.speed import measure_speed

    catalog = Catalog(load_settings().home)
    model = catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    sae = catalog.load_sae(SAE, model)
    measure_speed(model)  # the first pass of a process is slow, and the page's is not the first
    print("| evaluation | neighbours | tokens | tokens/s | estimated s | taken s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for n_busy in (0, os.cpu_count() or 1):
        with busy(n_busy):
            for size, chosen in SIZES.items():
                asked = request_of(*chosen)
                speed = measure_speed(model)
                cost = cost_of(asked, [sae.layer])
                tokens = cost.n_tokens + cost.n_learned
                started = time.perf_counter()
                evaluate(model, [sae], asked)
                taken, said = time.perf_counter() - started, cost.seconds(speed)
                row = (size, n_busy, f"{tokens:,}", f"{speed:.0f}", f"{said:.0f}", f"{taken:.0f}")
                print(f"| {' | '.join(map(str, row))} | {taken / said:.2f} |", flush=True)


if __name__ == "__main__":
    main()
