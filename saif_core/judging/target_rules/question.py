"""Target rule ``question``: whether the first sentence of an answer is so."""

from saif_core.judging.target_rules._sentences import whole_sentences

# Words that keep their capital inside a sentence.
_CAPITALS = frozenset(["I", "I'm", "I'd", "I'll", "I've"])


def question(answer: str) -> str:
    """Whether the first sentence of the answer is so; as it is where it asks already."""
    found = whole_sentences(answer)[:1]
    if not found or found[0].endswith("?"):
        return "".join(found)
    said = found[0].rstrip(".!… ")
    if not said:
        return ""
    if said.split()[0] not in _CAPITALS:
        said = said[0].lower() + said[1:]
    return f"Is it true that {said}?"
