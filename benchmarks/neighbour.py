"""Writing and reading beside a busy neighbour: how long they take with OpenMP's ways of waiting.

OpenMP's threads wait for one another by spinning. On a machine whose cores have other work, a
thread that spins keeps the one that it waits for from running. Every way is a process of its own;
each figure is its time over that of the default on the idle machine, all in one run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# The last one is what SAIF sets, see app/settings.py.
WAYS = {
    "OpenMP's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
}
WAITING = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
MOST_SECONDS = 600.0
PROMPTS = ("Bread is baked every morning.", "What do cats eat in winter?")
N_RUNS = 3


def measure() -> dict[str, float]:
    """Median seconds of writing two texts of 32 tokens, and of reading 16 prompts to block 14."""
    from app.settings import load_settings
    from saif_core.catalog import Catalog
    from saif_core.models.activations import read_resid
    from saif_core.models.default_model import DEFAULT_MODEL
    from saif_core.records.steering import UNSTEERED, GenerationRequest, Sampling
    from saif_core.writing.run import generate

    catalog = Catalog(load_settings().home)
    model = catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    asked = GenerationRequest(PROMPTS, (UNSTEERED,), Sampling(max_new_tokens=32))
    texts = [
        f"The committee met on Thursday to discuss point {n} of the budget." for n in range(16)
    ]
    prompts = [model.encode_prompt(text, chat=True) for text in texts]
    ends = [[len(prompt) - 1] for prompt in prompts]
    seconds: dict[str, list[float]] = {"write": [], "read": []}
    for _ in range(N_RUNS + 1):
        started = time.perf_counter()
        generate(model, {}, asked)
        seconds["write"].append(time.perf_counter() - started)
        started = time.perf_counter()
        read_resid(model, prompts, [14], ends)
        seconds["read"].append(time.perf_counter() - started)
    return {what: statistics.median(found[1:]) for what, found in seconds.items()}


@contextmanager
def busy(n: int) -> Iterator[None]:
    """``n`` processes that each want a whole core, for a bounded time."""
    loop = f"import time\nend = time.time() + {MOST_SECONDS}\nwhile time.time() < end: pass"
    running = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(n)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured_with(settings: dict[str, str]) -> dict[str, float]:
    """``measure`` in a process with these variables and no others of their kind."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=MOST_SECONDS,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print a table: each way, idle and beside as many busy processes as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure in this process")
    if parser.parse_args().measure:
        print(json.dumps(measure()))
        return
    n_busy = os.cpu_count() or 1
    found: dict[tuple[str, int], dict[str, float]] = {}
    for n in (0, n_busy):
        with busy(n):
            for name, settings in WAYS.items():
                found[name, n] = measured_with(settings)
    base = found[next(iter(WAYS)), 0]
    print(f"Idle, and beside {n_busy} busy processes; 1 is the default on the idle machine.\n")
    print("| threads wait by | write, idle | write, busy | read, idle | read, busy |")
    print("|---|---|---|---|---|")
    for name in WAYS:
        figures = [
            f"{found[name, n][what] / base[what]:.2f}"
            for what in ("write", "read")
            for n in (0, n_busy)
        ]
        print(f"| {name} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
