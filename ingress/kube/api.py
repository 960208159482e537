"""What the rest of this folder needs of an API server, and the ways in which it says no."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from ingress.errors import SourceError

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class Unavailable(SourceError):
    """Not reached, timed out, 429, 5xx: the same request may succeed later. `retry_after_s` is what the server asked for."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Forbidden(SourceError):
    """401 and 403: credentials or RBAC don't allow it. The message is the API server's own, which names verb, resource and account."""


class NotFound(SourceError):
    """404: no such object, or this API group and version isn't served."""


class Conflict(SourceError):
    """409: changed (or created) by somebody else since it was read."""


class ResourceExpired(SourceError):
    """410: the resourceVersion or continue token is too old. List again."""


class Rejected(SourceError):
    """Any other 4xx: sending the same again is no use."""


class Api(Protocol):
    """One API server. Paths start with `/api` or `/apis`; bodies are JSON. Every method raises the SourceErrors above."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes: ...

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """`body` is encoded by msgspec.json; None sends none."""
        ...

    def watch(self, path: str, query: Mapping[str, str], *, idle_timeout_s: float) -> AsyncIterator[bytes]:
        """The lines of a watch, each a whole JSON document. Ends when the server ends it; raises Unavailable when the
        connection breaks or is silent for `idle_timeout_s`. Close the iterator (`aclosing`) to end it early.
        """
        ...
