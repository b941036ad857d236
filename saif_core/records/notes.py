"""What people and language models say of a latent."""

from dataclasses import dataclass, field
from typing import Any, Literal

from saif_core.records.as_json import Record, new_id, utc_now

NoteKind = Literal["label", "note", "star"]


@dataclass(frozen=True)
class LatentNote(Record):
    """What someone says of a latent; ``source`` names the catalogue of an imported label."""

    sae_sha256: str
    latent: int
    kind: NoteKind
    text: str
    author: str
    source: str = ""
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class LatentDescription(Record):
    """What a method says a latent stands for, with what it was made from and how it scored.

    Attributes:
        method: how it was made.
        model, prompt: what wrote it, from what; empty where no language model did.
        evidence: JSON-ready, whatever the method keeps.
        input_score, output_score: how well it predicts where the latent fires, and what it does.
    """

    sae_sha256: str
    latent: int
    method: str
    text: str
    model: str = ""
    prompt: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    input_score: float | None = None
    output_score: float | None = None
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)
