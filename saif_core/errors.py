"""Every error that SAIF raises on purpose.

```
SaifError                 something the user can put right; the message is shown as it is
├── UnknownNameError      a name that nothing is known by: plug-in, model, SAE, session …
├── HookPointError        an unsupported hook point, or a layer the model does not have
├── ModelError            a model that cannot be fetched, read or run
├── SaeMismatchError      an SAE that does not belong to the model
├── UnknownLatentError    a latent that an SAE or an index does not have
├── PromptPairError       a pairs file, instruction file or prompt that cannot be used
├── CorpusError           text for an index that cannot be read
├── SteeringError         a steering request that cannot be carried out, or that changed nothing
├── EvaluatorError        an evaluator that was given parameters it cannot use
├── StorageError          the database refused, or holds something that cannot be read
├── JobCancelled          the user stopped the job
└── BudgetError           the request needs more memory than there is
```

A message says what was asked, what was found and what to do, in one sentence.
"""


class SaifError(Exception):
    """Root of the tree; the message is written for the user."""


class UnknownNameError(SaifError):
    """A name that nothing is registered under."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        self.kind, self.name, self.known = kind, name, known
        listed = ", ".join(known) if known else "none"
        super().__init__(f"There is no {kind} called {name!r}; the known ones are: {listed}.")


class HookPointError(SaifError):
    """A hook point outside what the engine reads and writes."""


class ModelError(SaifError):
    """A model that cannot be fetched, read or run."""


class SaeMismatchError(SaifError):
    """An SAE whose shape, hook point, model or reconstruction does not fit the model."""


class UnknownLatentError(SaifError):
    """A latent beyond those that there are."""


class PromptPairError(SaifError):
    """Pairs, instructions or prompts that cannot be used as given."""


class CorpusError(SaifError):
    """Text that cannot be read as a corpus."""


class SteeringError(SaifError):
    """A steering request that is impossible, or that had no effect."""


class EvaluatorError(SaifError):
    """Evaluator parameters that cannot be used."""


class StorageError(SaifError):
    """The database refused a request, or holds something unreadable."""


class JobCancelled(SaifError):
    """The user stopped the job."""


class BudgetError(SaifError):
    """A request that needs more memory than is free."""


def check_latent(latent: int, n_latents: int, owner: str) -> int:
    """The latent itself, if its owner has it.

    Args:
        owner: what has the latents, as the message names it: an SAE or an index.

    Raises:
        UnknownLatentError: it does not.
    """
    if not 0 <= latent < n_latents:
        raise UnknownLatentError(
            f"Latent {latent} was asked for, but {owner} has latents 0 to {n_latents - 1}; choose "
            "one of these."
        )
    return latent
