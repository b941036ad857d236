"""A saved piece of work."""

from dataclasses import dataclass, field

from saif_core.records.as_json import new_id, utc_now
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import Ranking
from saif_core.records.steering import SteeringRecipe
from saif_core.records.texts import GenerationResult

SESSION_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SteeringSession:
    """A saved piece of work: what was asked, found, written and noted."""

    name: str
    id: str = field(default_factory=new_id)
    notes: str = ""
    instruction: Instruction | None = None
    ranking: Ranking | None = None
    recipe: SteeringRecipe | None = None
    prompts: tuple[str, ...] = ()
    result: GenerationResult | None = None
    share_id: str | None = None
    schema_version: int = SESSION_SCHEMA_VERSION
    created_at: str = field(default_factory=utc_now)
    updated_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class SessionSummary:
    """A line in the list of sessions."""

    id: str
    name: str
    instruction: str
    model: str
    sae: str
    n_prompts: int
    shared: bool
    created_at: str
    updated_at: str
