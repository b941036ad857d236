import os

import pytest
import torch

from saif_core.engine.memory import explain_out_of_memory, free_bytes


def test_what_the_system_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf_names", {"SC_PAGE_SIZE": 30})
    assert free_bytes("mps") is None
    explained = explain_out_of_memory(torch.OutOfMemoryError("full"), "Find latents", "mps")
    assert str(explained).startswith("Find latents needed more memory than there is on mps; ask")


def test_free_memory_is_a_share_of_all_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = free_bytes("cpu")
    assert free is not None
    assert 0 < free <= total


def test_other_errors_stay_what_they_are() -> None:
    error = ValueError("no")
    assert explain_out_of_memory(error, "Find latents", "cpu") is error
