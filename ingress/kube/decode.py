"""From the JSON of lists and watch lines straight to the model. Pure.

Each object is decoded alone, so that a bad one costs only itself. What nothing reads is dropped at once: it would be most of
the memory (managed fields, last-applied configuration, labels and annotations of others).
"""

import sys
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec
from msgspec.structs import force_setattr

from ingress.errors import SourceError, Verdict
from ingress.kube.faults import fault_of_event
from ingress.model.decode import DecodeError, decode_object
from ingress.model.kubernetes import (
    SERVICE_NAME_LABEL,
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubernetesObject,
    LoadBalancerIngress,
    ObjectMeta,
    Secret,
    Service,
)
from ingress.model.ref import Kind, ObjectRef
from ingress.translate import health_checks
from ingress.translate.classes import DEFAULT_CLASS_ANNOTATION

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Wanted = Callable[[ObjectRef], bool]
Addresses = tuple[LoadBalancerIngress, ...]


class Undecodable(SourceError):
    """An answer is not what the API says: list again, later."""


class Namespace(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    """Only its name matters: the selector was applied by the API server."""

    kind: ClassVar[Kind] = Kind.NAMESPACE


class Item(msgspec.Struct, frozen=True):
    """One object as listed, got or watched: `object`, or else the `verdict` on it. `status` is that of an Ingress, apart
    from the object because a status write must not look like a change of the Ingress.
    """

    ref: ObjectRef
    version: str
    object: KubernetesObject | None = None
    verdict: Verdict | None = None
    status: Addresses = ()


class Page(msgspec.Struct, frozen=True):
    items: list[Item]
    version: str
    continue_token: str  # empty: the last page


class Event(msgspec.Struct, frozen=True):
    """`item` None: a bookmark, or an object that isn't wanted."""

    version: str
    item: Item | None = None
    deleted: bool = False


# ---- the wire -----------------------------------------------------------------------------------------------------


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _LoadBalancer(msgspec.Struct):
    ingress: Addresses | None = None


class _IngressStatus(msgspec.Struct, rename="camel"):
    load_balancer: _LoadBalancer | None = None


class _WithStatus(msgspec.Struct):
    status: _IngressStatus | None = None


_LISTS = msgspec.json.Decoder(_List)
_EVENTS = msgspec.json.Decoder(_WatchEvent)
_IDENTITIES = msgspec.json.Decoder(_Identity)
_STATUSES = msgspec.json.Decoder(_WithStatus)

_TYPES: dict[Kind, type[KubernetesObject]] = {
    Kind.INGRESS: Ingress,
    Kind.INGRESS_CLASS: IngressClass,
    Kind.SERVICE: Service,
    Kind.ENDPOINTS: Endpoints,
    Kind.ENDPOINT_SLICE: EndpointSlice,
    Kind.SECRET: Secret,
    Kind.CONFIG_MAP: ConfigMap,
    Kind.NAMESPACE: Namespace,
}


class Decoder:
    """Of one kind in one API version. Raises Undecodable for an answer as a whole, never for one object of it."""

    def __init__(self, kind: Kind, api_version: str, wanted: Wanted | None = None) -> None:
        """`wanted`: others are dropped before they are decoded (Secrets that nobody refers to)."""
        self.kind = kind
        self._api_version = api_version
        self._wanted = wanted
        self._decoder = msgspec.json.Decoder(_TYPES[kind])

    def page(self, body: bytes) -> Page:
        try:
            found = _LISTS.decode(body)
            items = [item for raw in found.items or () if (item := self._item(raw)) is not None]
        except msgspec.DecodeError as error:
            raise Undecodable(f"the list can't be read: {error}") from error
        return Page(items, found.metadata.resource_version, found.metadata.continue_token or "")

    def single(self, body: bytes) -> Item | None:
        """The answer to the GET of one object; None if it isn't wanted."""
        try:
            return self._item(body)
        except msgspec.DecodeError as error:
            raise Undecodable(f"the object can't be read: {error}") from error

    def events(self, lines: Sequence[bytes]) -> tuple[list[Event], SourceError | None]:
        """The events up to the first that ends the watch, and why it ends it."""
        events: list[Event] = []
        for line in lines:
            try:
                event = _EVENTS.decode(line)
                if event.type == "ERROR":
                    return events, fault_of_event(event.object)
                if event.type in ("ADDED", "MODIFIED", "DELETED"):
                    item = self._item(event.object)
                    version = (
                        _IDENTITIES.decode(event.object).metadata.resource_version if item is None else item.version
                    )
                    events.append(Event(version, item, event.type == "DELETED"))
                elif event.type == "BOOKMARK":
                    events.append(Event(_IDENTITIES.decode(event.object).metadata.resource_version))
            except msgspec.DecodeError as error:
                return events, Undecodable(f"a line of the watch can't be read: {error}")
        return events, None

    def _item(self, raw: bytes | msgspec.Raw) -> Item | None:
        if self._wanted is not None:
            name = _IDENTITIES.decode(raw).metadata
            if not self._wanted(ObjectRef(self.kind, name.namespace, name.name)):
                return None
        try:
            found: KubernetesObject = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._second_look(raw)
        return self._pruned(found, raw)

    def _pruned(self, found: KubernetesObject, raw: bytes | msgspec.Raw) -> Item:
        _prune(found.kind, found.metadata)
        status = _status(raw) if found.kind is Kind.INGRESS else ()
        return Item(found.ref, found.metadata.resource_version, found, None, status)

    def _second_look(self, raw: bytes | msgspec.Raw) -> Item:
        """Slower, tolerates null, and says what is wrong in words for the owner of the object."""
        plain = msgspec.json.decode(raw)
        if not isinstance(plain, dict):
            raise msgspec.ValidationError(f"expected an object, not {type(plain).__name__}")
        # items of a list don't carry their kind
        plain |= {"kind": str(self.kind), "apiVersion": self._api_version}
        try:
            found = decode_object(plain, "")
        except DecodeError as error:
            ref = error.ref or ObjectRef(self.kind, "", error.verdict.object)
            return Item(ref, _version_of(raw), None, error.verdict, _status(raw) if self.kind is Kind.INGRESS else ())
        if found is None:
            raise msgspec.ValidationError(f"expected an object of kind {self.kind}")
        return self._pruned(found, raw)


def _prune(kind: Kind, metadata: ObjectMeta) -> None:
    """Of an object that was just decoded, so that nobody has seen it yet."""
    labels, annotations = metadata.labels, metadata.annotations
    force_setattr(metadata, "namespace", sys.intern(metadata.namespace))
    if labels is not None:
        owner = labels.get(SERVICE_NAME_LABEL) if kind is Kind.ENDPOINT_SLICE else None
        force_setattr(metadata, "labels", None if owner is None else {SERVICE_NAME_LABEL: owner})
    if annotations is not None:
        if kind is Kind.INGRESS:
            # few names, long ones, in thousands of objects
            kept = {sys.intern(name): value for name, value in annotations.items() if name != LAST_APPLIED}
        elif kind is Kind.SERVICE:
            kept = health_checks.asked_of(annotations)
        else:
            default = annotations.get(DEFAULT_CLASS_ANNOTATION) if kind is Kind.INGRESS_CLASS else None
            kept = {} if default is None else {DEFAULT_CLASS_ANNOTATION: default}
        force_setattr(metadata, "annotations", kept or None)


def _status(raw: bytes | msgspec.Raw) -> Addresses:
    try:
        status = _STATUSES.decode(raw).status
    except msgspec.DecodeError:
        return ()  # whatever is written there: the status writer will put it right
    if status is None or status.load_balancer is None:
        return ()
    return status.load_balancer.ingress or ()


def _version_of(raw: bytes | msgspec.Raw) -> str:
    try:
        return _IDENTITIES.decode(raw).metadata.resource_version
    except msgspec.DecodeError:
        return ""
