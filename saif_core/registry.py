"""Methods by name: what can be chosen, with which parameters, read from the plug-in files.

A plug-in is one file in ``finding/selectors``, ``finding/sources``, ``steering/methods``,
``judging/evaluators`` or ``judging/target_rules``, or in a folder of that last name below a folder
of the user's own (see ``use_plugins``). It holds a function with the file's name; the function's
keyword-only arguments are its parameters, and their help is in its docstring. A source's file may
also hold ``write``, which then writes its edits; whatever writes edits may hold ``gates``, which
tells how far it opened at each token. Files whose name starts with an underscore are
helpers.

A plug-in package is imported when its registry is first asked for something, so importing this
module costs nothing; ``load_plugins`` imports all of them at the start.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from saif_core.errors import EvaluatorError, SaifError, SteeringError, UnknownNameError
from saif_core.parameters import Parameter, describe_value, read_docstring, read_parameters
from saif_core.records.texts import Judgement

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

    from saif_core.records.steering import Edit

    Selector = Callable[..., Float[np.ndarray, " d_sae"]]
    Source = Callable[..., Iterable[Edit]]
    SteeringMethod = Callable[..., Float[Tensor, "batch pos d_model"]]

Evaluator = Callable[..., Judgement]
TargetRule = Callable[..., str]
F = TypeVar("F", bound=Callable[..., Any])
# Arms that are no source's: a source of such a name would share a line of an evaluation with one.
RESERVED = frozenset({"unsteered", "prompted", "steered", "random", "flipped"})


@dataclass(frozen=True)
class Registered(Generic[F]):
    """One plug-in; ``help`` is the first paragraph of its docstring.

    Attributes:
        takes: names of the positional arguments, which SAIF fills in.
        needs_sae: a steering method, or a source's ``write``, that cannot do without an SAE.
        file_sha256: hash of the file as it was loaded, for everything kept of what it made.
        write: a source's own way of writing its edits.
        gates: of what writes edits: the same arguments → how far each of its gates is open.
    """

    name: str
    function: F
    parameters: tuple[Parameter, ...]
    help: str
    takes: tuple[str, ...] = ()
    needs_sae: bool = False
    file_sha256: str = ""
    write: "Registered[Any] | None" = None
    gates: Callable[..., Any] | None = None

    def check(
        self, kind: str, parameters: Mapping[str, Any], error: type[SaifError]
    ) -> dict[str, Any]:
        """All parameters: the given ones, checked, and the defaults of the others.

        Args:
            kind: what the plug-in is called in messages.

        Raises:
            SaifError: a parameter is unknown, missing or does not fit; of the class given.
        """
        known = {parameter.name for parameter in self.parameters}
        for given in parameters:
            if given not in known:
                raise error(
                    f"The {kind} {self.name!r} has no parameter {describe_value(given)}; its "
                    f"parameters are: {', '.join(sorted(known)) or 'none'}."
                )
        return {item.name: self._value(kind, item, parameters, error) for item in self.parameters}

    def bind(self, kind: str, parameters: Mapping[str, Any], error: type[SaifError]) -> F:
        """The function with its parameters set.

        Raises:
            SaifError: the parameters do not fit; of the class given.
        """
        return typing.cast(F, partial(self.function, **self.check(kind, parameters, error)))

    def _value(
        self,
        kind: str,
        item: Parameter,
        parameters: Mapping[str, Any],
        error: type[SaifError],
    ) -> Any:
        if item.name not in parameters:
            if item.required:
                raise error(
                    f"The {kind} {self.name!r} needs the parameter {item.name!r}, which was not "
                    f"given; it is {item.expects}."
                )
            return item.default
        try:
            return item.accept(parameters[item.name])
        except ValueError as refused:
            raise error(
                f"The parameter {item.name!r} of the {kind} {self.name!r} {refused}."
            ) from refused


class Registry(Generic[F]):
    """The plug-ins of one package by name, in alphabetical order.

    Args:
        kind: what one of them is called in messages.
        package: the package whose files are the plug-ins.
        error: raised for parameters that do not fit.
    """

    def __init__(self, kind: str, package: str, error: type[SaifError]) -> None:
        self.kind = kind
        self.package = package
        self.error = error
        self._folders: list[Path] = []

    @cached_property
    def _registered(self) -> dict[str, Registered[F]]:
        package = importlib.import_module(self.package)
        found: dict[str, Registered[F]] = {}
        for name in plugin_names(package.__path__):
            module = importlib.import_module(f"{self.package}.{name}")
            found[name] = _register(self.kind, module)
        for folder in self._folders:
            for name in plugin_names([str(folder)]):
                if name in found or (self.package.endswith("sources") and name in RESERVED):
                    raise ImportError(
                        f"The plug-in {name}.py in {folder} has the name of another {self.kind}; "
                        "give it a name of its own.",
                        name=name,
                    )
                found[name] = _register(self.kind, _load_file(folder / f"{name}.py"))
        return found

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Take plug-ins from these folders too, read anew when next asked for."""
        self._folders = [folder for folder in folders if folder.is_dir()]
        self.__dict__.pop("_registered", None)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._registered)

    def __iter__(self) -> Iterator[Registered[F]]:
        """All plug-ins, sorted by name."""
        return iter(self._registered[name] for name in self.names())

    def __len__(self) -> int:
        """How many plug-ins there are."""
        return len(self._registered)

    def __contains__(self, name: object) -> bool:
        """Whether something is registered under the name."""
        return name in self._registered

    def get(self, name: str) -> Registered[F]:
        """The plug-in with this name.

        Raises:
            UnknownNameError: nothing is registered under the name.
        """
        found = self._registered.get(name)
        if found is None:
            raise UnknownNameError(self.kind, name, self.names())
        return found

    def check(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a plug-in: the given ones, checked, and the defaults of the others.

        Raises:
            UnknownNameError: nothing is registered under the name.
            SaifError: a parameter is unknown, missing or does not fit; of the registry's class.
        """
        return self.get(name).check(self.kind, parameters, self.error)

    def bind(self, name: str, parameters: Mapping[str, Any]) -> F:
        """The plug-in's function with its parameters set.

        Raises:
            UnknownNameError: nothing is registered under the name.
            SaifError: the parameters do not fit; of the registry's class.
        """
        return self.get(name).bind(self.kind, parameters, self.error)


def import_plugins(package: str, path: Iterable[str]) -> None:
    """Import every plug-in file of a package; for the package's own ``__init__``.

    Raises:
        ImportError: a plug-in cannot be imported; the message names its file.
    """
    for name in plugin_names(path):
        try:
            importlib.import_module(f"{package}.{name}")
        except Exception as error:
            raise ImportError(
                f"The plug-in {name}.py in {package} cannot be loaded: "
                f"{type(error).__name__}: {error}",
                name=f"{package}.{name}",
            ) from error


def plugin_names(path: Iterable[str]) -> list[str]:
    """Names of the plug-in files in a package's folders, sorted."""
    found = (module.name for module in pkgutil.iter_modules(list(path)))
    return sorted(name for name in found if not name.startswith("_"))


def load_plugins() -> None:
    """Import every plug-in, so that a broken one stops the start.

    Raises:
        ImportError: a plug-in is broken; the message names its file.
    """
    for registry in REGISTRIES:
        registry.names()
    for source in SOURCES:
        if source.write is not None and source.name in STEERING_METHODS:
            raise ImportError(
                f"The source {source.name}.py writes its edits itself, but a steering method has "
                "its name; give it a name of its own.",
                name=source.name,
            )


def use_plugins(folders: Sequence[Path]) -> None:
    """Offer the plug-ins of folders of the user's own beside the shipped ones.

    Args:
        folders: each may hold the folders selectors, sources, methods, evaluators and
            target_rules.

    Raises:
        ImportError: a plug-in is broken, or has a name that is taken; none but the shipped ones
            are offered then.
    """
    for registry in REGISTRIES:
        own = registry.package.rpartition(".")[2]
        registry.use_folders([folder / own for folder in folders])
    try:
        load_plugins()
    except ImportError:
        for registry in REGISTRIES:
            registry.use_folders([])
        raise


def find_writer(name: str) -> "Registered[SteeringMethod]":
    """What writes an edit: the steering method of that name, or the source that writes its own.

    Raises:
        UnknownNameError: there is none.
    """
    if name in STEERING_METHODS:
        return STEERING_METHODS.get(name)
    own = {source.name: source.write for source in SOURCES if source.write is not None}
    if name in own:
        return own[name]
    raise UnknownNameError(STEERING_METHODS.kind, name, [*STEERING_METHODS.names(), *own])


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Runs a file as it is now: Python's own cache misses a change within the same second."""

    def get_code(self, fullname: str) -> types.CodeType:
        del fullname
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(path: Path) -> types.ModuleType:
    """The module in a file of the user's own.

    Raises:
        ImportError: it cannot be imported; the message names the file.
    """
    name = f"saif_plugins.{path.parent.name}.{path.stem}"
    loader = _SourceLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ImportError(
            f"The plug-in {path.name} in {path.parent} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            name=name,
        ) from error
    return module


def _register(kind: str, module: types.ModuleType) -> Registered[Any]:
    name = module.__name__.rpartition(".")[2]
    function = vars(module).get(name)
    if not inspect.isfunction(function) or function.__module__ != module.__name__:
        raise ImportError(
            f"The plug-in {name}.py in {_place(module)} has no function {name!r}; a {kind} "
            "is a function with the name of its file.",
            name=module.__name__,
        )
    write: Any = vars(module).get("write")
    owns_write = inspect.isfunction(write) and write.__module__ == module.__name__
    own = _describe(name, write, module) if owns_write else None
    return _describe(name, function, module, own)


def _place(module: types.ModuleType) -> str:
    """Package or folder of a plug-in, for messages."""
    package = module.__package__ or ""
    return package if package in sys.modules else str(Path(module.__file__ or "").parent)


def _describe(
    name: str,
    function: Callable[..., Any],
    module: types.ModuleType,
    write: Registered[Any] | None = None,
) -> Registered[Any]:
    summary, arguments = read_docstring(inspect.getdoc(function) or "")
    parameters = read_parameters(function, arguments)
    for parameter in parameters:
        if not parameter.is_drawable:
            raise ImportError(
                f"The parameter {parameter.name!r} of the plug-in {name}.py in "
                f"{_place(module)} has the type {parameter.annotation!r}; it has to be bool, "
                "int, float, str or a Literal of texts.",
                name=module.__name__,
            )
    signature = inspect.signature(function).parameters
    takes = tuple(n for n, p in signature.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY)
    file = getattr(module, "__file__", None)
    return Registered(
        name,
        function,
        parameters,
        summary,
        takes,
        needs_sae=_needs_sae(signature.get("sae")),
        file_sha256=hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "",
        write=write,
        gates=vars(module).get("gates"),
    )


def _needs_sae(sae: inspect.Parameter | None) -> bool:
    """Whether a method's SAE is annotated as one that cannot be missing."""
    if sae is None or sae.annotation is inspect.Parameter.empty:
        return False
    return not any(word in str(sae.annotation) for word in ("None", "Optional"))


SELECTORS: "Registry[Selector]" = Registry("selector", "saif_core.finding.selectors", SteeringError)
SOURCES: "Registry[Source]" = Registry("source", "saif_core.finding.sources", SteeringError)
STEERING_METHODS: "Registry[SteeringMethod]" = Registry(
    "steering method", "saif_core.steering.methods", SteeringError
)
EVALUATORS: Registry[Evaluator] = Registry(
    "evaluator", "saif_core.judging.evaluators", EvaluatorError
)
TARGET_RULES: Registry[TargetRule] = Registry(
    "target rule", "saif_core.judging.target_rules", EvaluatorError
)
REGISTRIES: tuple[Registry[Any], ...] = (
    SELECTORS,
    SOURCES,
    STEERING_METHODS,
    EVALUATORS,
    TARGET_RULES,
)
