"""From the raw object of an API server or a manifest to the model. Pure; the input is never changed.

Types are as strict as the API server's: a number where text is expected is an error, and `null` is the same as absent.
Unknown fields are ignored. Nothing raw leaves this module except, shortened, inside a verdict.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ingress.errors import IngressError, Verdict, VerdictReason
from ingress.model.kubernetes import (
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubernetesObject,
    Secret,
    Service,
)
from ingress.model.legacy import LegacyFieldError, ingress_from_v1beta1, slice_from_v1beta1
from ingress.model.ref import Kind, ObjectRef

DEFAULT_NAMESPACE = "default"  # what `kubectl apply` uses when neither the manifest nor the context names one
VALUE_LIMIT = 80  # characters of an offending value shown in a verdict

_TYPES: dict[str, type[KubernetesObject]] = {
    Kind.INGRESS: Ingress,
    Kind.INGRESS_CLASS: IngressClass,
    Kind.SERVICE: Service,
    Kind.ENDPOINTS: Endpoints,
    Kind.ENDPOINT_SLICE: EndpointSlice,
    Kind.SECRET: Secret,
    Kind.CONFIG_MAP: ConfigMap,
}

Rewrite = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _as_is(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw


_VERSIONS: dict[str, dict[str, Rewrite]] = {
    Kind.INGRESS: {
        "networking.k8s.io/v1": _as_is,
        "networking.k8s.io/v1beta1": ingress_from_v1beta1,
        "extensions/v1beta1": ingress_from_v1beta1,
    },
    Kind.INGRESS_CLASS: {"networking.k8s.io/v1": _as_is, "networking.k8s.io/v1beta1": _as_is},
    Kind.SERVICE: {"v1": _as_is},
    Kind.ENDPOINTS: {"v1": _as_is},
    Kind.ENDPOINT_SLICE: {"discovery.k8s.io/v1": _as_is, "discovery.k8s.io/v1beta1": slice_from_v1beta1},
    Kind.SECRET: {"v1": _as_is},
    Kind.CONFIG_MAP: {"v1": _as_is},
}

# Other API groups have kinds of these names (a Knative Service, for example): not ours, and not an error.
_SHARED_NAMES = frozenset({Kind.SERVICE, Kind.SECRET, Kind.CONFIG_MAP})

# Fields that map names to text: there a null value is the empty string, as for the API server; elsewhere null is
# absence.
_TEXT_MAPS = (("metadata", "annotations"), ("metadata", "labels"), ("spec", "selector"), ("data",), ("stringData",))

_DEPTH_LIMIT = 50  # nothing that the model reads is nested deeper

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


class DecodeError(IngressError):
    """An object can't be decoded. `ref` is set when at least its identity is sound."""

    def __init__(self, verdict: Verdict, ref: ObjectRef | None = None) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict
        self.ref = ref


def decode_object(raw: Mapping[str, Any], origin: str) -> KubernetesObject | None:
    """The object, or None for a kind that aioingress doesn't read. Raise DecodeError.

    `origin` (`file:line`, or empty) goes into the object and into the verdict. The namespace of a namespaced kind
    defaults to `default`; a cluster-scoped kind has none, whatever was written.
    """
    kind = raw.get("kind")
    if not isinstance(kind, str) or not kind:
        raise _error("object", "kind", kind, "The kind of the object is missing or not text", origin)
    if kind not in _TYPES:
        return None
    rewrite = _rewriter(kind, raw.get("apiVersion"), raw, origin)
    if rewrite is None:
        return None
    metadata, ref = _identity(Kind(kind), raw, origin)
    fields: Mapping[str, Any] = {**raw, "metadata": metadata, "origin": origin}
    try:
        try:
            return msgspec.convert(rewrite(fields), _TYPES[kind])
        except msgspec.ValidationError:
            fields = _without_nulls(fields)
            rewritten = rewrite(fields)
            try:
                return msgspec.convert(rewritten, _TYPES[kind])
            except msgspec.ValidationError as error:
                raise _invalid(error, rewritten, ref, origin) from None
    except LegacyFieldError as error:
        raise _error(str(ref), error.field, error.value, error.message, origin, ref) from None


def shorten(value: object) -> str:
    """Offending value as one short printable line."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = str(value) if isinstance(value, int | float) else _describe(value)
    if len(text) > VALUE_LIMIT:
        text = text[: VALUE_LIMIT - 1] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]


def _describe(value: object) -> str:
    """Containers are named by shape: their content may be huge, and may be secret."""
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


def _error(
    subject: str,
    field: str,
    value: object,
    message: str,
    origin: str,
    ref: ObjectRef | None = None,
    reason: VerdictReason = VerdictReason.INVALID_OBJECT,
) -> DecodeError:
    verdict = Verdict(object=subject, field=field, reason=reason, message=message, value=shorten(value), origin=origin)
    return DecodeError(verdict, ref)


def _rewriter(kind: str, version: Any, raw: Mapping[str, Any], origin: str) -> Rewrite | None:
    versions = _VERSIONS[kind]
    if isinstance(version, str):
        found = versions.get(version)
        if found is not None:
            return found
        if kind in _SHARED_NAMES and "/" in version:
            return None
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    raise _error(
        f"{kind} {shorten(name)}".rstrip(),
        "apiVersion",
        version,
        f"The API version is not one that aioingress reads for this kind: {', '.join(versions)}",
        origin,
        reason=VerdictReason.INVALID_FIELD,
    )


def _identity(kind: Kind, raw: Mapping[str, Any], origin: str) -> tuple[Mapping[str, Any], ObjectRef]:
    """Metadata with the namespace settled. Names end up in logs, metrics and headers, so they are checked before
    anything else.
    """
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping):
        raise _error(kind, "metadata", metadata, "Expected a mapping with the name of the object", origin)
    name = metadata.get("name")
    if name is None or name == "":
        raise _error(kind, "metadata.name", None, "The name of the object is missing", origin)
    if not isinstance(name, str):
        raise _error(kind, "metadata.name", name, "Expected text: quote the name", origin)
    namespace = metadata.get("namespace")
    if kind is Kind.INGRESS_CLASS:
        namespace = ""
    elif namespace is None or namespace == "":
        namespace = DEFAULT_NAMESPACE
    elif not isinstance(namespace, str):
        raise _error(
            f"{kind} {shorten(name)}", "metadata.namespace", namespace, "Expected text: quote the namespace", origin
        )
    elif len(namespace) > 63 or _LABEL.fullmatch(namespace) is None:
        raise _error(
            f"{kind} {shorten(namespace)}/{shorten(name)}",
            "metadata.namespace",
            namespace,
            "A namespace is at most 63 lower-case letters, digits and '-' (a DNS label)",
            origin,
            reason=VerdictReason.INVALID_FIELD,
        )
    if len(name) > 253 or _SUBDOMAIN.fullmatch(name) is None:
        raise _error(
            f"{kind} {namespace}/{shorten(name)}" if namespace else f"{kind} {shorten(name)}",
            "metadata.name",
            name,
            "A name is at most 253 lower-case letters, digits, '-' and '.' (a DNS subdomain)",
            origin,
            reason=VerdictReason.INVALID_FIELD,
        )
    if metadata.get("namespace") != namespace:
        metadata = {**metadata, "namespace": namespace}
    return metadata, ObjectRef(kind, namespace, name)


def _without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    text_maps: dict[int, Mapping[str, Any]] = {}
    for path in _TEXT_MAPS:
        node: Any = raw
        for step in path:
            node = node.get(step) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            text_maps[id(node)] = node

    def strip(value: Any, depth: int) -> Any:
        if depth > _DEPTH_LIMIT:
            return None
        if isinstance(value, Mapping):
            if id(value) in text_maps:
                return {key: "" if item is None else item for key, item in value.items()}
            return {key: strip(item, depth + 1) for key, item in value.items() if item is not None}
        if isinstance(value, list):
            return [strip(item, depth + 1) for item in value]
        return value

    return {key: strip(value, 1) for key, value in raw.items() if value is not None}


# ---- msgspec's error text -> field, value, sentence ---------------------------------------------------------------

_AT = re.compile(r"(?s)(.*) - at (?:`key` in )?`\$(.*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_WORD = re.compile(r"`([^`]*)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


def _invalid(error: msgspec.ValidationError, raw: Mapping[str, Any], ref: ObjectRef, origin: str) -> DecodeError:
    text = str(error)
    message, path = text, ""
    if (at := _AT.fullmatch(text)) is not None:
        message, path = at[1], at[2]
    field, value = _locate(raw, path)
    if (missing := _MISSING.match(message)) is not None:
        field = f"{field}.{missing[1]}" if field else missing[1]
        value, message = None, "A required field is missing"
    else:
        message = _WORD.sub(lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), message)
    if ref.kind is Kind.SECRET and field.startswith(("data", "stringData")):
        value = None
    return _error(str(ref), field, value, message, origin, ref)


def _locate(raw: Any, path: str) -> tuple[str, Any]:
    """Field path and value at msgspec's `path`, in which `[...]` stands for some key of a mapping of text to text."""
    field, node = "", raw
    for step in _STEP.finditer(path):
        name, index, _ = step.groups()
        if name is not None:
            field = f"{field}.{name}" if field else name
            node = node.get(name) if isinstance(node, Mapping) else None
        elif index is not None:
            field = f"{field}[{index}]"
            node = node[int(index)] if isinstance(node, list) and int(index) < len(node) else None
        elif isinstance(node, Mapping):
            key = next((k for k, v in node.items() if not isinstance(v, str)), "")
            field = f"{field}[{shorten(key)}]"
            node = node.get(key)
    return field, node
