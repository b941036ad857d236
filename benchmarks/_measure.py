"""What the benchmarks share: interleaved timing, the machine, Markdown tables and a JSON file."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "sae-lens", "transformer-lens", "nnsight", "numpy")


@dataclass(frozen=True)
class Timing:
    """Seconds that every run of one variant took."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        scale, unit = (1.0, "s") if self.median >= 1 else (1e3, "ms")
        low, high = min(self.seconds) * scale, max(self.seconds) * scale
        return f"{self.median * scale:.3g} {unit} ({low:.3g} to {high:.3g})"


def time_interleaved(
    variants: Mapping[str, Callable[[], object]], *, runs: int
) -> dict[str, Timing]:
    """Time all variants in turn, ``runs`` times over, so that a slow minute falls on all of them.

    Callers warm the variants up; every round starts with another variant.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(runs):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            variants[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def ratio(one: Timing, other: Timing) -> Timing:
    """``one`` over ``other``, run by run: neighbours in time, so that drift cancels out."""
    return Timing(tuple(a / b for a, b in zip(one.seconds, other.seconds, strict=True)))


def describe_ratio(found: Timing) -> str:
    """Median, lowest and highest."""
    return f"{found.median:.2f} ({min(found.seconds):.2f} to {max(found.seconds):.2f})"


def machine() -> str:
    """Processor, threads, memory, GPUs and library versions, in one line."""
    parts = [_processor(), f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts.append(f"{memory:.0f} GiB")
    parts += [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    parts.append(f"Python {platform.python_version()}")
    for name in LIBRARIES:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{name} not installed")
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


@dataclass
class Report:
    """A section of docs/results/performance.md, printed as it grows, and its figures as JSON."""

    title: str
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.say(f"## {self.title}")
        self.say(f"Machine: {machine()}.")

    def say(self, text: str) -> None:
        print(text, end="\n\n", flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.say(markdown_table(header, rows))

    def keep(self, name: str, value: Any) -> None:
        """Add a figure to the JSON file."""
        self.figures[name] = list(value.seconds) if isinstance(value, Timing) else value

    def write(self, path: Path | None) -> None:
        if path is not None:
            content = {"title": self.title, "machine": machine(), "figures": self.figures}
            path.write_text(json.dumps(content, indent=1))


def argument_parser(description: str | None, *, runs: int = 5) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --runs and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=runs, help="runs per variant, interleaved")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser
