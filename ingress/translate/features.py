"""Features of routes as this layer sees them: parsers that are passed in, each turning annotations into plain data.

`translate` knows no middleware by name: `middleware.registry.SPECS` satisfies `FeatureParser`, and `app` hands it over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from ingress.errors import IngressError, VerdictReason
from ingress.model import ConfigMap, Kind, KubernetesObject, ObjectRef, Secret
from ingress.routing.table import Feature
from ingress.translate.names import is_object_name
from ingress.translate.options import Options
from ingress.translate.report import Report, shown

T = TypeVar("T")
Objects = Callable[[ObjectRef], KubernetesObject | None]
"""Looks a Secret or ConfigMap up in the state that is compiled."""


def _no_middleware(name: str) -> bool:
    return False


class AnnotationError(IngressError):
    """An annotation can't be used. `why` is a clause that names the bad part of its value."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


class OptionError(AnnotationError):
    """An option that decides for Ingresses without the annotation can't be used. `name` is its key in the ConfigMap."""


class FeatureParser(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def annotations(self) -> tuple[str, ...]: ...

    @property
    def fails_closed(self) -> bool: ...

    @property
    def skips_catch_all(self) -> bool: ...

    @property
    def by_option(self) -> Callable[[Any], bool]: ...

    @property
    def parse(self) -> Callable[[Any], msgspec.Struct | None]: ...


def field_of(key: str) -> str:
    return f"metadata.annotations[{key}]"


class AnnotationReader:
    """The annotations of one Ingress, by name without prefix; `used` collects the names that some parser looked at.

    `references` collects the Secrets and ConfigMaps that were asked for, existing or not: the Ingress is compiled again when one changes.
    """

    def __init__(
        self,
        found: Mapping[str, tuple[str, str]],
        report: Report,
        options: Options,
        namespace: str,
        ingress: str,
        objects: Objects,
        allows_middleware: Callable[[str], bool] = _no_middleware,
    ) -> None:
        self._found = found  # name -> (full key, value)
        self._report = report
        self._objects = objects
        self.allows_middleware = allows_middleware  # whether the admin lets this Ingress name that user middleware
        self.options = options
        self.namespace = namespace
        self.ingress = ingress
        self.used: set[str] = set()
        self.references: set[ObjectRef] = set()

    def has(self, names: Iterable[str]) -> bool:
        """Whether any of them is set."""
        return any(name in self._found for name in names)

    def prefixed(self, prefix: str) -> dict[str, str]:
        """The values of all names that start so, by the rest of their name."""
        names = [name for name in self._found if name.startswith(prefix)]
        self.used.update(names)
        return {name[len(prefix) :]: self._found[name][1] for name in names}

    def text(self, name: str) -> str | None:
        """The value without surrounding white space; None: not set."""
        self.used.add(name)
        entry = self._found.get(name)
        return None if entry is None else entry[1]

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """For what costs only itself: a value that `parse` refuses (ValueError) is a verdict, and the default is in force."""
        text = self.text(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as e:
            self.error(name, f"The value of {shown(self.key(name))} is not used: {shown(e)}. The default is in force.")
            return default

    def require(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """Like `take`, but a bad value is an AnnotationError: for what the whole feature depends on."""
        text = self.text(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as e:
            raise AnnotationError(name, str(e)) from e

    def key(self, name: str) -> str:
        """The annotation as written, prefix included."""
        entry = self._found.get(name)
        return name if entry is None else entry[0]

    def warn(self, name: str, message: str) -> None:
        """It is served, but perhaps not as its author expects. `message` is a sentence."""
        self._report.warning(
            field_of(self.key(name)), VerdictReason.INVALID_ANNOTATION, message, self._found.get(name, ("", ""))[1]
        )

    def error(self, name: str, message: str) -> None:
        """Something asked for is not served. `message` is a sentence."""
        self._report.error(
            field_of(self.key(name)), VerdictReason.INVALID_ANNOTATION, message, self._found.get(name, ("", ""))[1]
        )

    def close(self, name: str, why: str) -> None:
        """An access rule can't be kept: the routes of the Ingress are closed. `why` is a sentence without its full stop."""
        self._report.error(
            field_of(self.key(name)),
            VerdictReason.ACCESS_RULE_REJECTED,
            f"{why}: all routes of the Ingress are closed (503), because access rules must not fail open.",
            self._found.get(name, ("", ""))[1],
        )

    def refuse_option(self, name: str, why: str, closes: bool) -> None:
        """An option, not the Ingress, is at fault. `why` is a clause."""
        consequence = (
            "all routes of the Ingress are closed (503), because access rules must not fail open"
            if closes
            else "it has no effect on this Ingress"
        )
        self._report.error(
            "",
            VerdictReason.ACCESS_RULE_REJECTED if closes else VerdictReason.INVALID_FIELD,
            f"The option {name} of the ConfigMap can't be used, {shown(why)}: {consequence}.",
        )

    def secret(self, name: str, reference: str) -> Secret:
        """The Secret that annotation `name` names (`name` or `namespace/name`). Raises AnnotationError."""
        found = self._object(Kind.SECRET, name, reference)
        assert isinstance(found, Secret)
        return found

    def config_map(self, name: str, reference: str) -> ConfigMap:
        found = self._object(Kind.CONFIG_MAP, name, reference)
        assert isinstance(found, ConfigMap)
        return found

    def _object(self, kind: Kind, name: str, reference: str) -> KubernetesObject:
        namespace, slash, own = reference.strip().rpartition("/")
        if not slash:
            namespace = self.namespace
        if not is_object_name(own) or (slash and not is_object_name(namespace)):
            raise AnnotationError(name, f"it is not the name of a {kind}")
        if namespace != self.namespace and not self.options.allow_cross_namespace_resources:
            raise AnnotationError(
                name, f"the {kind} is in namespace {namespace}, and allow-cross-namespace-resources is off"
            )
        ref = ObjectRef(kind, namespace, own)
        self.references.add(ref)
        found = self._objects(ref)
        if found is None:
            raise AnnotationError(name, f"{kind} {namespace}/{own} does not exist")
        return found


def parse_features(parsers: Sequence[FeatureParser], reader: AnnotationReader) -> tuple[tuple[Feature, ...], str]:
    """Features in the order of `parsers`, and the reason to close the routes if an access rule can't be kept (empty: none).

    Never raises: a bug in one parser costs its Ingress (closed, if it is an access rule), and nothing else.
    """
    features: list[Feature] = []
    closed = ""
    for parser in parsers:
        if not (reader.has(parser.annotations) or parser.by_option(reader.options)):
            continue
        try:
            policy = parser.parse(reader)
        except OptionError as e:
            reader.used.update(parser.annotations)
            reader.refuse_option(e.name, e.why, parser.fails_closed)
            if parser.fails_closed:
                closed = closed or f"option {e.name}: {e.why}"
        except AnnotationError as e:
            reader.used.update(parser.annotations)
            key = reader.key(e.name)
            if parser.fails_closed:
                closed = closed or f"{shown(key)}: {e.why}"
                reader.close(e.name, f"{shown(e.why)[:1].upper()}{shown(e.why)[1:]}")
            else:
                reader.error(e.name, f"The value of {shown(key)} is not used: {shown(e.why)}.")
        except Exception as e:
            reader.used.update(parser.annotations)
            name = parser.annotations[0] if parser.annotations else parser.name
            if parser.fails_closed:
                closed = closed or f"{parser.name}: a bug of the controller"
                reader.close(name, f"Reading it failed ({type(e).__name__}), which is a bug of the controller")
            else:
                reader.error(name, f"Reading it failed ({type(e).__name__}): this is a bug of the controller.")
        else:
            reader.used.update(parser.annotations)
            if policy is not None:
                features.append(Feature(parser.name, msgspec.to_builtins(policy)))
    return tuple(features), closed
