"""A certificate for the benchmarks, and a client that makes a TLS connection for each request.

python -m bench.support.tls --port N --host NAME --path / --seconds 5 [--resume]
"""

import argparse
import datetime
import json
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

THREADS = 4


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files with an EC key (P-256) and its certificate, as most certificates are issued today; `both`: one behind the other."""

    certificate: Path
    key: Path
    both: Path


def make_certificate(folder: Path, host: str) -> TLSFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = TLSFiles(folder / "tls.crt", folder / "tls.key", folder / "both.pem")
    files.certificate.write_bytes(shown)
    files.key.write_bytes(private)
    files.both.write_bytes(shown + private)
    return files


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Client:
    """One thread: a connection, a request, the end of the connection, and again."""

    def __init__(self, options: argparse.Namespace, end: float) -> None:
        self._options = options
        self._end = end
        self.latencies_ms: list[float] = []
        self.status_errors = self.socket_errors = self.resumed = 0

    def run(self) -> None:
        context = unverified()
        session: ssl.SSLSession | None = None
        while time.monotonic() < self._end:
            began = time.monotonic()
            try:
                session = self._once(context, session)
            except OSError:
                self.socket_errors += 1
                session = None
            self.latencies_ms.append((time.monotonic() - began) * 1e3)

    def _once(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        options = self._options
        with socket.create_connection(("127.0.0.1", options.port), timeout=10) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_hostname=options.host, session=session) as connection:
                self.resumed += bool(connection.session_reused)
                connection.sendall(
                    f"GET {options.path} HTTP/1.1\r\nHost: {options.host}\r\nConnection: close\r\n\r\n".encode()
                )
                answer = b""
                while data := connection.recv(65536):
                    answer += data
                self.status_errors += not answer.startswith(b"HTTP/1.1 2")
                return connection.session if options.resume else None


def main() -> int:
    top = argparse.ArgumentParser(prog="python -m bench.support.tls")
    top.add_argument("--port", type=int, required=True)
    top.add_argument("--host", required=True)
    top.add_argument("--path", default="/")
    top.add_argument("--seconds", type=float, default=5.0)
    top.add_argument("--resume", action="store_true", help="offer the session of the connection before")
    options = top.parse_args()
    began = time.monotonic()
    clients = [_Client(options, began + options.seconds) for _ in range(THREADS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {
        "latencies_ms": [latency for client in clients for latency in client.latencies_ms],
        "seconds": time.monotonic() - began,
        "status_errors": sum(client.status_errors for client in clients),
        "socket_errors": sum(client.socket_errors for client in clients),
        "resumed": sum(client.resumed for client in clients),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
