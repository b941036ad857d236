"""``saif`` in this process: what it answers, what it refuses, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.cli.main import main


class Ran(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object that is all of standard output."""
        assert self.status == 0, self.err
        assert self.out.count("\n") == 1
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data

    @property
    def refusal(self) -> str:
        """The one line on standard error."""
        assert (self.status, self.out) == (2, ""), (self.status, self.out, self.err)
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err


Run = Callable[..., Ran]


def runner(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    *saes: Path,
) -> Run:
    """Runs ``saif`` on a model, with SAEs offered."""
    monkeypatch.setenv("SAIF_MODEL", str(model))
    monkeypatch.setenv("SAIF_DEVICE", "cpu")
    monkeypatch.setenv("SAIF_SAES", ",".join(map(str, saes)))

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        status = ended.value.code
        assert isinstance(status, int)
        return Ran(status, *capfd.readouterr())

    return run
