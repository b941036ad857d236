"""A saved piece of work."""

from dataclasses import dataclass, field

from saif_core.records.as_json import Record, new_id, utc_now
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import Ranking
from saif_core.records.steering import GenerationRequest, SteeringRecipe
from saif_core.records.texts import GenerationResult

SESSION_SCHEMA_VERSION = 2


@dataclass(frozen=True)
class SteeringSession(Record):
    """A saved piece of work: what was asked, found, written and noted.

    Attributes:
        instruction: what the texts are judged by, whole.
        recipe: what was asked for, whether it was written or not.
        result: the texts, if they were written.
    """

    name: str
    id: str = field(default_factory=new_id)
    notes: str = ""
    instruction: Instruction | None = None
    ranking: Ranking | None = None
    recipe: SteeringRecipe | None = None
    result: GenerationResult | None = None
    share_id: str | None = None
    schema_version: int = SESSION_SCHEMA_VERSION
    created_at: str = field(default_factory=utc_now)
    updated_at: str = field(default_factory=utc_now)

    @property
    def request(self) -> GenerationRequest | None:
        """What was asked for: prompts, arms and sampling."""
        return self.recipe.request if self.recipe else None


@dataclass(frozen=True)
class SessionSummary(Record):
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
