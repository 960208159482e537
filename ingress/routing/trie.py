"""Host index and path trie. Sans-IO; the cost of a match depends on the depth of the path, not on the number of routes.

Generic in the value: tests and tools store routes, the data plane stores what it linked to them. Keys are bytes in the normal form of
`routing.path`; hosts are lower case without port.
"""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from ingress.routing.table import PathType

T = TypeVar("T")


class PathIndex(Protocol[T]):
    """The paths of one host: a `PathTrie`, or `routing.regex.RegexPaths`."""

    default: T | None

    def match(self, path: bytes) -> T | None: ...

    def candidates(self, path: bytes) -> list[T]: ...


class _Node(Generic[T]):
    """`plain` and `slash` hold the Prefix rules written `/a/b` and `/a/b/`; both match `/a/b` and everything below it.

    Where both are present, the one spelled like the request wins at the node itself (`here`), and the longer one below it (`below`).
    """

    __slots__ = ("below", "children", "here", "plain", "slash")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[T]] = {}
        self.plain: T | None = None
        self.slash: T | None = None
        self.here: T | None = None
        self.below: T | None = None


class PathTrie(Generic[T]):
    """Paths of one host. Precedence (KEP-1453): the longest matching path, and Exact over Prefix of the same length."""

    __slots__ = ("_exact", "_root", "default")

    def __init__(self, default: T | None = None) -> None:
        self._exact: dict[bytes, T] = {}
        self._root: _Node[T] = _Node()
        self.default = default

    def add(self, path: bytes, path_type: PathType, value: T) -> None:
        """The first of two equal (path, type) stays; the translator reports the conflict."""
        if path_type is PathType.EXACT:
            self._exact.setdefault(path, value)
            return
        node = self._root
        for segment in path.split(b"/"):
            if segment:
                child = node.children.get(segment)
                if child is None:
                    child = node.children[segment] = _Node()
                node = child
        if path.endswith(b"/"):
            if node.slash is None:
                node.slash = value
        elif node.plain is None:
            node.plain = value
        node.here = node.slash if node.plain is None else node.plain
        node.below = node.plain if node.slash is None else node.slash

    def match(self, path: bytes) -> T | None:
        """The value of the best rule for a normalised path; None when no rule matches (then `default` is up to the caller)."""
        value = self._exact.get(path)
        if value is not None:
            return value
        node = self._root
        best = node.below
        if not node.children:
            return best
        segments = path.split(b"/")
        del segments[0]
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                return best  # also the empty segment behind a trailing slash
            node = child
            if node.below is not None:
                best = node.below
        return best if node.here is None else node.here

    def candidates(self, path: bytes) -> list[T]:
        """Every rule that matches, best first: what `explain` shows. Not for the hot path."""
        found: list[T] = []
        node = self._root
        nodes = [node]
        segments = [s for s in path.split(b"/") if s]
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                break
            node = child
            nodes.append(node)
        for depth in range(len(nodes) - 1, -1, -1):
            node = nodes[depth]
            at_end = depth == len(segments) and not path.endswith(b"/")
            pair = (node.plain, node.slash) if at_end else (node.slash, node.plain)
            found.extend(value for value in pair if value is not None)
        exact = self._exact.get(path)
        return found if exact is None else [exact, *found]


class HostIndex(Generic[T]):
    """Exact hosts, wildcards of exactly one leftmost label, aliases by regular expression, and the entry for any host, in this order.

    A host that is listed never falls through to a wildcard or to the any-host entry, whatever its paths.
    """

    __slots__ = ("_any", "_exact", "_regex", "_wildcard")

    def __init__(self, entries: Iterable[tuple[str, PathIndex[T]]] = ()) -> None:
        self._exact: dict[bytes, PathIndex[T]] = {}
        self._wildcard: dict[bytes, PathIndex[T]] = {}
        self._regex: Callable[[bytes], PathIndex[T] | None] | None = None
        self._any: PathIndex[T] | None = None
        for pattern, trie in entries:
            self.set(pattern, trie)

    def set(self, pattern: str, trie: PathIndex[T]) -> None:
        if pattern == "":
            self._any = trie
        elif pattern.startswith("*."):
            self._wildcard[pattern[2:].encode()] = trie
        else:
            self._exact[pattern.encode()] = trie

    def set_regex(self, find: Callable[[bytes], PathIndex[T] | None] | None) -> None:
        """The paths of the first alias by regular expression that matches a host; None: there are no such aliases."""
        self._regex = find

    def get(self, pattern: str) -> PathIndex[T] | None:
        """The paths of a pattern."""
        if pattern == "":
            return self._any
        if pattern.startswith("*."):
            return self._wildcard.get(pattern[2:].encode())
        return self._exact.get(pattern.encode())

    def remove(self, pattern: str) -> None:
        if pattern == "":
            self._any = None
        elif pattern.startswith("*."):
            self._wildcard.pop(pattern[2:].encode(), None)
        else:
            self._exact.pop(pattern.encode(), None)

    def copy(self) -> "HostIndex[T]":
        """Shallow: tries are shared. A swap replaces only the tries of hosts that changed."""
        other: HostIndex[T] = HostIndex()
        other._exact = self._exact.copy()
        other._wildcard = self._wildcard.copy()
        other._regex = self._regex
        other._any = self._any
        return other

    def lookup(self, host: bytes) -> PathIndex[T] | None:
        trie = self._exact.get(host)
        if trie is not None:
            return trie
        if self._wildcard:
            label, dot, parent = host.partition(b".")
            if dot and label:
                trie = self._wildcard.get(parent)
                if trie is not None:
                    return trie
        if self._regex is not None:
            paths = self._regex(host)
            if paths is not None:
                return paths
        return self._any


def normalize_host(authority: bytes) -> bytes:
    """Host of an authority or Host header: lower case, without port and without the root's trailing dot.

    Raises ValueError, with the reason as a clause, for what is no host (userinfo, spaces, an unclosed bracket, a port that is no number).
    """
    if authority.isalpha():  # a bare name: nothing to strip
        return authority.lower()
    if authority[:1] == b"[":
        host, bracket, port = authority[1:].partition(b"]")
        if not bracket or (port and (port[:1] != b":" or not (port[1:].isdigit() or port == b":"))):
            raise ValueError("it is not a bracketed address with a port")
        if not host or host.strip(b"0123456789abcdefABCDEF:."):
            raise ValueError("its brackets hold no address")
        return b"[" + host.lower() + b"]"
    host, colon, port = authority.partition(b":")
    if colon and port and not port.isdigit():
        raise ValueError("its port is not a number")
    if host[-1:] == b".":
        host = host[:-1]
    if host.translate(None, _HOST_BYTES):
        raise ValueError("it has characters that no host name has")
    return host.lower()


_HOST_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
