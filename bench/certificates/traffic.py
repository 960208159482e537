"""Clients over TLS: one handshake with one request, and a load that remembers every failure."""

import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.support.tls import unverified


@dataclass(frozen=True, slots=True)
class Shown:
    certificate: bytes  # DER
    status: int


def once(port: int, host: str, context: ssl.SSLContext) -> Shown:
    """A connection, a full handshake, one request, the end. Raises OSError and http.client.HTTPException."""
    with Kept(port, host, context) as connection:
        return Shown(connection.certificate, connection.get())


class Kept:
    """One connection over TLS."""

    def __init__(self, port: int, host: str, context: ssl.SSLContext) -> None:
        self._host = host
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        try:
            secured = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
        self.certificate = secured.getpeercert(binary_form=True) or b""
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.sock = secured

    def get(self) -> int:
        self._connection.request("GET", "/", headers={"Host": self._host})
        response = self._connection.getresponse()
        response.read()
        if response.will_close:
            raise http.client.NotConnected("the server closes the connection")
        return response.status

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


@dataclass(slots=True)
class Load:
    """Threads that open connections without a pause, and threads that stay on theirs, while it is entered.

    `hosts` are asked in turn; `known(host)`: the certificates that may be shown. A kept connection makes `requests_kept` requests, then is
    replaced by another one (the proxy would close it after 1,000).
    """

    port: int
    hosts: list[str]
    known: Callable[[str], frozenset[bytes]]
    new: int = 2
    kept: int = 2
    requests_kept: int = 500
    limit_s: float = 300.0
    failures: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    requests: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        runs = [1] * self.new + [self.requests_kept] * self.kept
        self._threads = [
            threading.Thread(target=self._run, args=(number, requests), daemon=True)
            for number, requests in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, requests: int) -> None:
        context = unverified()
        end = time.monotonic() + self.limit_s
        turn = number
        while not self._stop.is_set() and time.monotonic() < end:
            host = self.hosts[turn % len(self.hosts)]
            turn += len(self._threads)
            try:
                self._connection(host, requests, context)
            except (OSError, http.client.HTTPException) as error:
                self._failed(repr(error))

    def _connection(self, host: str, requests: int, context: ssl.SSLContext) -> None:
        with Kept(self.port, host, context) as connection:
            if connection.certificate not in self.known(host):
                self._failed("a certificate that nobody made for the host")
            for _ in range(requests):
                status = connection.get()
                if status != 200:
                    self._failed(f"status {status}")
                with self._lock:
                    self.requests += 1
                if self._stop.is_set():
                    break
        with self._lock:
            self.connections += 1

    def _failed(self, why: str) -> None:
        with self._lock:
            self.failures[why] += 1
