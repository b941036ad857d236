"""A step of training, forward and back: products of matrices in bfloat16, beside float32.

The two take turns in one run. On a CPU without fast bfloat16 they are the same.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from benchmarks._measure import Report, argument_parser, describe_ratio, ratio, time_interleaved
from saif_core.catalog import Catalog
from saif_core.finding.study import Study, Target
from saif_core.finding.training import BATCH, gate, quick_math
from saif_core.inputs.shipped import learning_contents, learning_references
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.records.ranking import RankingRequest

LAYER, K, ANSWER_TOKENS = 14, 32, 48


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    from app.settings import load_settings

    report = Report("Training")
    catalog = Catalog(load_settings().home)
    model = catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    sae = catalog.load_sae(f"{DEFAULT_MODEL}/layer{LAYER}", model)
    study = Study(model, [sae], RankingRequest("", "", ()))
    answers = learning_references("fr")
    targets = [
        Target(
            tuple(model.encode_prompt(content, chat=True)),
            tuple(model.tokenizer.encode(answers[content])[:ANSWER_TOKENS]),
        )
        for content in learning_contents()[:BATCH]
    ]
    directions = sae.W_dec[:K].float()
    weight = torch.zeros(K, model.d_model, requires_grad=True)
    found: dict[str, tuple[float, Tensor]] = {}

    def delta(resid: Tensor) -> Tensor:
        return gate(resid, weight, torch.ones(K)) @ directions

    def step(name: str, math: Callable[[], AbstractContextManager[None]]) -> None:
        weight.grad = None
        with math():
            loss = study.loss({LAYER: delta}, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        found[name] = float(loss.detach()), weight.grad.clone()

    precise = partial(step, "float32", nullcontext)
    quick = partial(step, "bfloat16", lambda: quick_math(model.device))
    for variant in (precise, quick):
        variant()
    timings = time_interleaved({"float32": precise, "bfloat16": quick}, runs=options.runs)
    taken = ratio(timings["bfloat16"], timings["float32"])
    report.table(
        ["a step of 12 answers", "time", "loss"],
        [[name, timing, f"{found[name][0]:.4f}"] for name, timing in timings.items()],
    )
    alike = torch.nn.functional.cosine_similarity(
        *(found[name][1].flatten() for name in ("float32", "bfloat16")), dim=0
    )
    report.say(
        f"bfloat16 takes {describe_ratio(taken)} of float32's time; cosine of the two gradients "
        f"{float(alike):.4f}."
    )
    report.keep("bfloat16 over float32", taken)
    report.write(options.json)


if __name__ == "__main__":
    main(argument_parser(__doc__).parse_args())
