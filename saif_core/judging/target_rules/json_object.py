"""Target rule ``json_object``: the first sentence of an answer as a JSON object."""

import json

from saif_core.judging.target_rules._sentences import whole_sentences


def json_object(answer: str) -> str:
    """The first sentence of the answer as the value of a JSON object."""
    found = whole_sentences(answer)[:1]
    return json.dumps({"answer": found[0]}, ensure_ascii=False) if found else ""
