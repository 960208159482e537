"""`python -m bench.certificates`: 1,000 hosts with 1,000 certificates beside one with one. See bench/README.md."""

import argparse
import datetime
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.certificates.traffic import Load, once
from bench.support import controller, machine
from bench.support.figures import median, percentile, spread
from bench.support.manifests import NAMESPACE, ManifestFolder, Object, endpoint_slice, ingress, service
from bench.support.processes import BenchError, MemoryUse, PortAllocator, ProcessTree, bench_session
from bench.support.report import add_output_options, mib, number, percent, provenance, publish, table
from bench.support.tls import unverified

WORKERS = 2
VISITS = 8  # connections to each host: the kernel spreads them over the workers, so 99 % of the hosts have met both
ROTATED = 20  # hosts that are renewed in turn
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM


@dataclass(slots=True)
class Site:
    """A host and every certificate that was made for it, the last one in force."""

    host: str
    ingress: str
    made: list[bytes] = field(default_factory=list)  # DER

    def secret(self) -> Object:
        """With a new key (P-256) and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.host)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=90))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self.host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.made.append(certificate.public_bytes(DER))
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.ingress, "namespace": NAMESPACE},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.public_bytes(PEM).decode(), "tls.key": private.decode()},
        }

    def objects(self) -> list[Object]:
        found = dict(ingress(self.ingress, [(self.host, [("/", "app")])]))
        found["spec"] = {**found["spec"], "tls": [{"hosts": [self.host], "secretName": self.ingress}]}
        return [found]


class Running:
    """`ingress serve --workers 2` with so many sites."""

    def __init__(self, count: int, home: Path, ports: PortAllocator, backend_port: int) -> None:
        self.sites = [Site(f"host-{n:04d}.example.com", f"host-{n:04d}") for n in range(count)]
        self.folder = ManifestFolder(home / f"manifests-{count}")
        self.folder.write("app.yaml", [service("app"), endpoint_slice("app", ["127.0.0.1"], backend_port)])
        self.folder.write("sites.yaml", [item for site in self.sites for item in site.objects()])
        self.folder.write("secrets.yaml", [site.secret() for site in self.sites[ROTATED:]])
        for site in self.sites[:ROTATED]:
            self.renew(site)
        self._turn = 0
        began = time.monotonic()
        self.started = controller.start(self.folder.path, home / f"{count}.log", ports, workers=WORKERS)
        self.started.wait_ready()
        self.ready_s = time.monotonic() - began

    def renew(self, site: Site) -> float:
        return self.folder.write(f"{site.ingress}.yaml", [site.secret()])

    def handshakes(self, count: int) -> float:
        """CPU µs of the whole tree for each connection: handshake, request, end."""
        context, tree = unverified(), self.started.process
        before = tree.cpu_s()
        for _ in range(count):
            self._turn += 1
            shown = once(self.started.https_port, self.sites[self._turn % len(self.sites)].host, context)
            if shown.status != 200:
                raise BenchError(f"status {shown.status}")
        return (tree.cpu_s() - before) / count * 1e6

    def visit_all(self) -> None:
        """Every host, until both workers must have met it; each shows its own certificate."""
        context = unverified()
        for _ in range(VISITS):
            for site in self.sites:
                shown = once(self.started.https_port, site.host, context)
                if shown != type(shown)(site.made[-1], 200):
                    raise BenchError(f"{site.host}: status {shown.status}, or another certificate")

    def known(self, host: str) -> frozenset[bytes]:
        return frozenset(next(site for site in self.sites if site.host == host).made)

    def until_shown(self, site: Site, since: float) -> float:
        """Seconds from `since` until eight connections in a row show the last certificate."""
        context, deadline, in_a_row = unverified(), since + 20, 0
        first = 0.0
        while in_a_row < 8:
            now = time.monotonic()
            if now > deadline:
                raise BenchError(f"{site.host}: a renewal wasn't served within 20 s")
            shown = once(self.started.https_port, site.host, context)
            if shown.certificate != site.made[-1]:
                in_a_row = 0
            else:
                first = first if in_a_row else now - since
                in_a_row += 1
        return first


def memory_row(what: str, uses: Sequence[MemoryUse]) -> list[str]:
    parent, *workers = sorted(uses, key=lambda use: use.pid)
    return [what, mib(parent.pss_bytes), *(mib(use.pss_bytes) for use in workers), mib(sum(u.pss_bytes for u in uses))]


def main() -> int:
    top = argparse.ArgumentParser(prog="python -m bench.certificates", description=__doc__.splitlines()[0])
    top.add_argument("--hosts", type=int, help="default: 1000")
    top.add_argument("--rounds", type=int, help="of handshakes, both sizes in turn; default: 7")
    top.add_argument("--handshakes", type=int, default=500, help="a round; default: %(default)s")
    top.add_argument("--rotations", type=int, help="default: 100")
    add_output_options(top)
    options = top.parse_args()
    hosts = options.hosts or (50 if options.quick else 1000)
    rounds = options.rounds or (2 if options.quick else 7)
    rotations = options.rotations or (10 if options.quick else 100)
    with bench_session(options.keep) as home:
        ports = PortAllocator(random.Random(1))
        backend_port = ports.take()
        argv = [sys.executable, "-m", "bench.support.backend", "--listen", f"127.0.0.1:{backend_port}"]
        started: list[ProcessTree] = [ProcessTree("backend", argv, log=home / "backend.log")]
        try:
            controller.wait_for_status(started[0], backend_port, "/")
            one = Running(1, home, ports, backend_port)
            started.append(one.started.process)
            many = Running(hosts, home, ports, backend_port)
            started.append(many.started.process)
            failed = _measure(options, one, many, rounds, rotations)
        finally:
            for process in reversed(started):
                process.stop()
    return 1 if failed else 0


def _measure(options: argparse.Namespace, one: Running, many: Running, rounds: int, rotations: int) -> int:
    """Publishes; the number of failures."""
    size = f"{len(many.sites):,}"
    one.visit_all()
    rows = [memory_row("1 host", one.started.process.memory())]
    rows.append(memory_row(f"{size} hosts, none asked for", many.started.process.memory()))
    many.visit_all()
    rows.append(memory_row(f"{size} hosts, all asked for", many.started.process.memory()))
    print("memory measured", file=sys.stderr, flush=True)

    cpu: dict[str, list[float]] = {"1": [], size: []}
    for _ in range(rounds):
        cpu["1"].append(one.handshakes(options.handshakes))
        cpu[size].append(many.handshakes(options.handshakes))
    handshakes = [
        [name, number(median(values), 0), percent(spread(values)), f"{median(values) / median(cpu['1']):.2f}"]
        for name, values in cpu.items()
    ]
    print("handshakes measured", file=sys.stderr, flush=True)

    rotated = many.sites[: min(ROTATED, len(many.sites))]
    shown_ms = []
    with Load(many.started.https_port, [site.host for site in rotated], many.known) as load:
        for turn in range(rotations):
            site = rotated[turn % len(rotated)]
            shown_ms.append(many.until_shown(site, many.renew(site)) * 1e3)
    failed = sum(load.failures.values())
    rows.append(memory_row(f"after {rotations} renewals", many.started.process.memory()))

    here = machine.describe()
    facts = [
        ("load average", f"{os.getloadavg()[1]:.1f} over five minutes, this run included"),
        ("workers", str(WORKERS)),
        ("rounds", f"{rounds} of {options.handshakes} handshakes, in turn"),
    ]
    renewals = [
        ["renewals under load", str(rotations)],
        ["renewal to shown, median", f"{median(shown_ms):.0f} ms"],
        ["the slowest", f"{percentile(shown_ms, 100):.0f} ms"],
        ["connections meanwhile", number(load.connections, 0)],
        ["requests meanwhile", number(load.requests, 0)],
        ["failures", str(failed) if not failed else f"**{failed}**: {dict(load.failures)}"],
    ]
    body = [
        f"## Certificates: {size} hosts, a certificate (P-256) each",
        provenance(here, "bench.certificates", facts),
        f"Ready {many.ready_s:.1f} s after the start with {size} hosts, {one.ready_s:.1f} s with one.",
        table(["PSS, MiB", "controller", *(f"worker {n}" for n in range(WORKERS)), "all"], rows),
        table(["certificates", "CPU µs/connection, median", "spread", "to 1"], handshakes),
        table(["renewals", ""], renewals),
    ]
    publish(options, "certificates", "\n\n".join(body))
    if options.json:
        raw = {"cpu_us": cpu, "shown_ms": shown_ms, "failures": dict(load.failures)}
        options.json.write_text(json.dumps(raw, indent=1))
    return failed


if __name__ == "__main__":
    sys.exit(main())
