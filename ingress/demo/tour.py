"""The curl lines that the demo prints: what to type, and what comes back."""

import shlex
from typing import NamedTuple

from ingress.config import Address


class CurlLine(NamedTuple):
    description: str
    command: str
    expected: str


class Step(NamedTuple):
    """One line of the tour, machine-readable: `tests` and `curl_lines` read the same."""

    description: str
    host: str
    path: str
    service: str | None  # that answers; None: nobody does
    expected: str
    options: tuple[str, ...] = ()
    https: bool = False


TOUR = (
    Step(
        "One host, two Pods: repeat it and see the other Pod",
        "toad.example.com",
        "/",
        "toad",
        "You've hit toad-xueq1    (or toad-7hmvb)",
    ),
    Step(
        "Two paths on one host: the first",
        "pond.example.com",
        "/toad",
        "toad",
        "You've hit toad-7hmvb    (or toad-xueq1)",
    ),
    Step("… and the second", "pond.example.com", "/frog", "frog", "You've hit frog-4k2zd"),
    Step("Two hosts: the first", "toad.example.org", "/", "toad", "You've hit toad-xueq1    (or toad-7hmvb)"),
    Step("… and the second", "frog.example.org", "/", "frog", "You've hit frog-4k2zd"),
    Step(
        "Session affinity by client address: the same Pod however often you repeat it",
        "sticky.example.com",
        "/",
        "toad-sticky",
        "You've hit toad-…    (always the same)",
    ),
    Step(
        "What the Pod receives",
        "toad.example.com",
        "/echo?a=1",
        "toad",
        "JSON: method, path, query, headers with X-Request-ID, X-Real-IP and X-Forwarded-…",
    ),
    Step(
        "A stream of events, each as soon as it is sent",
        "toad.example.com",
        "/sse?count=3",
        "toad",
        "three events, one a second",
        ("-N",),
    ),
    Step(
        "Over HTTPS: the certificate is one that the demo made for itself, hence -k",
        "toad.example.com",
        "/",
        "toad",
        "You've hit toad-7hmvb    (or toad-xueq1)",
        ("-k",),
        https=True,
    ),
    Step("A host that no Ingress names", "heron.example.com", "/", None, "HTTP/1.1 404 Not Found", ("-i",)),
)


def curl_lines(http_address: Address, https_address: Address) -> list[CurlLine]:
    """The tour through the two listeners; an unspecified address (0.0.0.0, ::) is reached over loopback."""
    bases = {False: f"http://{_reached_at(http_address)}", True: f"https://{_reached_at(https_address)}"}
    return [
        CurlLine(
            step.description,
            " ".join(
                (
                    "curl",
                    *step.options,
                    "-H",
                    shlex.quote(f"Host: {step.host}"),
                    _argument(bases[step.https] + step.path),
                )
            ),
            step.expected,
        )
        for step in TOUR
    ]


def render(lines: list[CurlLine]) -> str:
    """For a terminal: the answers are comments, so a whole block can be pasted into a shell."""
    return "\n".join(f"# {line.description}\n{line.command}\n#   {line.expected}\n" for line in lines)


def _reached_at(address: Address) -> Address:
    return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


def _argument(url: str) -> str:
    """Quoted only where a shell would read more into it than text: brackets, question marks, ampersands."""
    return f"'{url}'" if set(url) & set("[]?&*") else url
