"""Guards that hold for the whole suite, and the choices that every run shares.

- **No stray traffic.** A test may talk to this machine's loopback only; tests of pure code (`PURE`) can't even open a socket.
- **No blocking call in an event loop.** `time.sleep`, a name look-up or a blocking `connect` in a thread that runs a loop fails
  the test. The calls themselves are watched, not a clock, so it doesn't depend on how busy the machine is.
- **The loop of production.** Async tests run on uvloop where it is installed; `TEST_LOOP=asyncio|uvloop|both` chooses.
- **Hypothesis profiles.** `dev` (random), `ci` (the same examples every time; what `make test` uses), `thorough`:
  `HYPOTHESIS_PROFILE` chooses.

A guard raises at the call *and* fails the test afterwards, since code under test may catch what was raised. Child processes
are not guarded.
"""

import asyncio
import enum
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parent
PURE = tuple(ROOT / "tests" / folder for folder in ("model", "routing", "translate", "balancing", "affinity"))

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci",
    deadline=None,  # two busy cores
    derandomize=True,
    database=None,
    max_examples=200,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


# ---- sockets and blocking calls -----------------------------------------------------------------------------------


class ForbiddenIO(RuntimeError):
    """A test did what it must not; names the call."""


class Network(enum.Enum):
    NONE = enum.auto()
    LOOPBACK = enum.auto()
    ANY = enum.auto()


class _Guard:
    """State of the audit hook, which can't be removed once added."""

    network = Network.LOOPBACK
    violations: list[str] = []  # noqa: RUF012  # one guard, one list

    def forbid(self, what: str) -> None:
        self.violations.append(what)
        raise ForbiddenIO(what)

    def check_host(self, host: object, call: str) -> None:
        if self.network is not Network.ANY and not _is_loopback(host):
            self.forbid(f"{call} to {host!r}: tests may only talk to the loopback interface")

    def on_socket(self, _sock: socket.socket, family: int, *_: object) -> None:
        if self.network is Network.NONE:
            self.forbid(f"a socket of family {family}: this folder's tests are of code without I/O")

    def on_connect(self, sock: socket.socket, address: object) -> None:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        self.check_host(_host_of(address), "connect")
        if sock.type == socket.SOCK_STREAM and sock.gettimeout() != 0 and _in_loop():
            self.forbid(f"a blocking connect to {address!r} inside an event loop")

    def on_send(self, sock: socket.socket, address: object) -> None:
        if address is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            self.check_host(_host_of(address), "send")

    def on_lookup(self, host: object, *_: object) -> None:
        self.check_host(host, "a look-up")
        if _in_loop() and host and not _is_address(host):
            self.forbid(f"a blocking look-up of {host!r} inside an event loop")

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`, which raises no audit event before Python 3.13."""
        if _in_loop():
            self.forbid(f"time.sleep({seconds}) inside an event loop")
        _sleep(seconds)


GUARD = _Guard()

_sleep = time.sleep
time.sleep = GUARD.sleep

_HANDLERS: Mapping[str, Callable[..., None]] = {
    "socket.__new__": GUARD.on_socket,
    "socket.connect": GUARD.on_connect,
    "socket.sendto": GUARD.on_send,
    "socket.sendmsg": GUARD.on_send,
    "socket.getaddrinfo": GUARD.on_lookup,
    "socket.gethostbyname": GUARD.on_lookup,
    "socket.gethostbyaddr": GUARD.on_lookup,
}


def _audit(event: str, args: tuple[Any, ...]) -> None:
    handler = _HANDLERS.get(event)
    if handler is not None:
        handler(*args)


sys.addaudithook(_audit)


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _host_of(address: object) -> object:
    return address[0] if isinstance(address, tuple) and address else address


def _text(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(_text(host))
    except ValueError:
        return False
    return True


def _is_loopback(host: object) -> bool:
    """No host (any or loopback, as the call says) and the unspecified address (connects to this machine) count too."""
    if host is None or _text(host) in ("", "localhost", "<broadcast>"):
        return _text(host) != "<broadcast>"
    try:
        address = ipaddress.ip_address(_text(host))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def _network_of(item: pytest.Item) -> Network:
    if item.get_closest_marker("kube"):
        return Network.ANY  # inside a network namespace of its own
    return Network.NONE if any(folder in item.path.parents for folder in PURE) else Network.LOOPBACK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    GUARD.network = _network_of(item)
    try:
        return (yield)
    finally:
        GUARD.network = Network.LOOPBACK


@pytest.fixture(autouse=True)
def forbidden_io() -> Iterator[list[str]]:
    """What this test did and must not have done; a test of the guards clears it."""
    GUARD.violations.clear()
    yield GUARD.violations
    if GUARD.violations:
        violations = "; ".join(GUARD.violations)
        GUARD.violations.clear()
        pytest.fail(f"forbidden: {violations}", pytrace=False)


# ---- event loops --------------------------------------------------------------------------------------------------


def _guarded_uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop connects and looks up in C, past the interpreter's audit events: its methods are guarded instead."""
    try:
        import uvloop
    except ImportError:
        return None

    class Loop(uvloop.Loop):
        async def create_connection(
            self, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any
        ) -> Any:
            GUARD.check_host(host, "connect")
            return await super().create_connection(protocol_factory, host, port, **kwargs)

        async def create_datagram_endpoint(
            self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **kwargs: Any
        ) -> Any:
            GUARD.check_host(_host_of(remote_addr), "a datagram endpoint")
            return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **kwargs)

        async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
            GUARD.check_host(host, "a look-up")
            return await super().getaddrinfo(host, port, **kwargs)

    return Loop


def _loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    wanted = os.environ.get("TEST_LOOP", "")
    if wanted not in ("", "asyncio", "uvloop", "both"):
        raise pytest.UsageError(f"TEST_LOOP is {wanted!r}: expected asyncio, uvloop or both")
    fast = _guarded_uvloop()
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {}
    if fast is not None and wanted != "asyncio":
        factories["uvloop"] = fast
    if wanted in ("asyncio", "both") or not factories:
        if wanted == "uvloop":
            raise pytest.UsageError("TEST_LOOP is uvloop, which is not installed")
        factories["asyncio"] = asyncio.SelectorEventLoop
    return factories


_LOOP_FACTORIES = _loop_factories()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return _LOOP_FACTORIES


def pytest_report_header(config: pytest.Config) -> str:
    profile = hypothesis.settings.get_current_profile_name()
    return f"event loop: {', '.join(_LOOP_FACTORIES)}; hypothesis profile: {profile}"
