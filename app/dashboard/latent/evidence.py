"""What a corpus index says of one latent, read from the store: chips, tokens and histograms."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from app.charts.latent import logit_histogram, profile_histogram, token_bars
from app.dashboard.corpus.indexes import indexes_of
from app.presentation.escaping import escape_markdown, promotes
from app.presentation.figures import counted
from app.presentation.glossary import explain
from saif_core.records.corpus import LatentIndex, LatentProfile, LatentSummary

_VERDICTS = {
    "reads": "it fires on the tokens that it promotes, and amplifying it does not bring them",
    "writes": "amplifying it brings the tokens that it promotes, and it fires on others",
    "both": "it fires on the tokens that it promotes, and amplifying it brings them",
    "neither": "it does not fire on the tokens that it promotes, nor does amplifying it bring them",
}


@dataclass(frozen=True)
class KnownLatent:
    """A latent, and the index whose profile of it is shown."""

    sae_id: str
    index: LatentIndex
    profile: LatentProfile

    @property
    def latent(self) -> int:
        return self.profile.latent


def default_index(sae_id: str) -> LatentIndex | None:
    """The index that tells of the latents of another SAE."""
    return next(iter(indexes_of(sae_id)), None)


def words_of(summary: LatentSummary | None) -> str:
    """Label of a latent, else what it promotes, as plain text; "" for an unknown one."""
    if summary is None:
        return ""
    return summary.label or promotes(summary.promotes.split())


def percent(share: float) -> str:
    """A share with two digits that count, however small."""
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def draw_chips(known: KnownLatent) -> None:
    """Verdict, density, maximum and where it fires, each with its unit and n."""
    index, profile = known.index, known.profile
    with st.container(horizontal=True, gap="small"):
        _draw_verdict(index, profile)
        share = profile.n_fired / index.n_tokens if index.n_tokens else 0.0
        st.badge(
            f"fires on {percent(share)} of {index.n_tokens:,} tokens",
            icon=":material/percent:",
            color="gray",
            help=explain(
                "density",
                f"Here: {counted(profile.n_fired, 'token')} of "
                f"{counted(index.n_contexts, 'context')}.",
            ),
        )
        if not profile.n_fired:
            return
        st.badge(
            f"maximum {profile.maximum:.3g} · mean {profile.mean:.3g}",
            icon=":material/vertical_align_top:",
            color="gray",
            help="Latent activation, unitless; the mean is over the tokens on which it fires "
            f"(n = {profile.n_fired:,}).",
        )
        first, special = (n / profile.n_fired for n in (profile.n_first, profile.n_special))
        st.badge(
            f"{percent(first)} on first tokens · {percent(special)} on special tokens",
            icon=":material/first_page:",
            color="orange" if max(first, special) > 0.5 else "gray",
            help=f"Of its {profile.n_fired:,} firings, {profile.n_first:,} are on the first token "
            f"of a context and {profile.n_special:,} on special tokens. Many models attend to "
            "these whatever the text says, so such a latent tells little of the text.",
        )


def _draw_verdict(index: LatentIndex, profile: LatentProfile) -> None:
    from saif_core.explaining.latent_scores import (
        AMPLIFICATION,
        LEAST_VERDICT_TOKENS,
        N_PROMOTED,
        READS_FROM,
        WRITES_FROM,
        verdict_on,
    )
    from saif_core.models.prompting import NEUTRAL_PROMPT

    if profile.s_in is None or profile.s_out is None:
        st.badge(
            "reads or writes: not measured",
            icon=":material/help:",
            color="gray",
            help=explain(
                "S_in, S_out",
                "S\\_in takes tokens on which the latent fires; on this corpus there are none."
                if not profile.n_fired
                else "This index holds no S\\_in or S\\_out; index the corpus anew.",
            ),
        )
        return
    found = verdict_on(index.n_tokens, profile.s_in, profile.s_out)
    scores = f"S\\_in {profile.s_in:z.2f} · S\\_out {profile.s_out:z.3f}"
    if found is None:
        st.badge(
            f"reads or writes: not known · {scores}",
            icon=":material/help:",
            color="gray",
            help=explain(
                "S_in, S_out",
                f"{counted(index.n_tokens, 'token')} of {escape_markdown(index.name)} are too few "
                f"to tell; a corpus of {LEAST_VERDICT_TOKENS:,} tokens is enough.",
            ),
        )
        return
    st.badge(
        f"{found} · {scores}",
        icon=":material/swap_horiz:",
        help=f"**{found}**: {_VERDICTS[found]}. S\\_in is the share of the tokens it fires on most "
        f"that are among the {N_PROMOTED} it promotes; it reads from {READS_FROM:g}. S\\_out is "
        f"how much amplifying it, by {AMPLIFICATION:g} times its maximum on this corpus after the "
        f"neutral prompt “{NEUTRAL_PROMPT}”, helps the likeliest of those {N_PROMOTED} tokens; it "
        f"writes from {WRITES_FROM:g}.",
    )


def draw_token_bars(
    promoted: Sequence[tuple[str, float]], suppressed: Sequence[tuple[str, float]]
) -> None:
    """Promoted and suppressed tokens side by side, with logits."""
    for column, title, tokens, up in zip(
        st.columns(2),
        ("Tokens it promotes", "Tokens it suppresses"),
        (promoted, suppressed),
        (True, False),
        strict=True,
    ):
        with column:
            st.subheader(title, anchor=False, help=explain(f"{title}, promotes, logits"))
            listed = ", ".join(f"{token.strip()} {logit:+z.2f}" for token, logit in tokens[:5])
            st.altair_chart(
                token_bars(tokens, promoted=up),
                key=f"latent_tokens_{up}",
                alt=f"{title}, with logits: {listed}",
            )


def draw_histograms(known: KnownLatent) -> None:
    """How strongly it fires, and what its decoder direction does to the whole vocabulary."""
    profile = known.profile
    left, right = st.columns(2)
    with left:
        st.subheader("How strongly it fires", anchor=False)
        if not profile.n_fired:
            st.info(
                "On this corpus it never fires; try texts of your own below, or index a corpus "
                "of another kind.",
                icon=":material/info:",
            )
        else:
            low, median, high = (profile.quantiles[at] for at in (1, 3, 5))
            sentence = (
                f"Of {counted(profile.n_fired, 'token')}, 5% are below {low:.3g}, half below "
                f"{median:.3g} and 95% below {high:.3g}; the largest is {profile.maximum:.3g}."
            )
            st.altair_chart(profile_histogram(profile), key="latent_firing_histogram", alt=sentence)
            st.caption(sentence)
    with right:
        st.subheader(
            "What it does to the vocabulary", anchor=False, help=explain("logit lens, logits")
        )
        low, high = profile.logit_range
        sentence = (
            f"Logits of all {sum(profile.logit_histogram):,} tokens, from {low:+.3g} to "
            f"{high:+.3g}; a latent that stands for a few tokens has them far to the right of the "
            "rest."
        )
        st.altair_chart(logit_histogram(profile), key="latent_logit_histogram", alt=sentence)
        st.caption(sentence)


def title_words(label: str, promoted: Sequence[str], firing: Sequence[str] = ()) -> str:
    """The newest label, else what it promotes and fires on, as one line of Markdown."""
    if label:
        return escape_markdown(label)
    words = f"promotes {promotes(promoted)}"
    if firing:
        words += f" · fires on {promotes(list(dict.fromkeys(firing)))}"
    return escape_markdown(words)
