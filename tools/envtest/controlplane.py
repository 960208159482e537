"""etcd, kube-apiserver and kube-controller-manager as processes of this machine.

Start them inside a network namespace: the API server listens on `API_SERVER`. Its certificate is its own, self-signed; clients prove who
they are by bearer tokens; RBAC and the default admission plugins are on. All state lies in one folder.
"""

import base64
import contextlib
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.envtest import API_SERVER, API_SERVER_PORT, SERVICE_NETWORK, EnvtestError
from tools.envtest.build import Binaries
from tools.envtest.processes import Child, Spawner, poll_until, tail

_ETCD = "127.0.0.1:2379"
_ETCD_PEER = "127.0.0.1:2380"
_START_LIMIT_S = 60.0  # takes 5 on two idle cores
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)


_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One request of a service account for objects, and how it was answered. `group` empty: the core; `namespace` empty: all."""

    at: str  # RFC 3339 in microseconds
    verb: str
    group: str
    resource: str  # with its subresource: ingresses/status
    namespace: str
    name: str
    status: int
    permitted: bool  # RBAC allows it; 403 may have other reasons, such as a namespace that is being deleted


class ControlPlane:
    """One cluster's. Nothing runs before `start`; every method waits until what it did is done."""

    url = f"https://{API_SERVER}:{API_SERVER_PORT}"

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        self._binaries = binaries
        self.spawner = Spawner()
        self.folder = folder
        self.logs = folder / "logs"
        self.kubeconfig = folder / "kubeconfig"
        self._certificates = folder / "certificates"
        self.ca_file = self._certificates / "apiserver.crt"  # the server's own certificate and the CA that signed it
        self.admin_token = secrets.token_hex(16)
        self._audit_log = folder / "audit.jsonl"
        self._disabled_apis: tuple[str, ...] = ()
        self._etcd: Child | None = None
        self._apiserver: Child | None = None
        self._controllers: Child | None = None
        self.logs.mkdir(parents=True)
        self._certificates.mkdir()
        self._write(folder / "service-account.key", _ec_private_key())
        self._write(folder / "audit-policy.json", json.dumps(_AUDIT_POLICY))
        self._write(folder / "tokens.csv", f'{self.admin_token},admin,admin,"system:masters"\n')
        self.write_kubeconfig(self.kubeconfig)

    # ---- all of it ----

    def start(self, disabled_apis: Sequence[str] = ()) -> None:
        """`disabled_apis`: group/versions that this API server is too old for, such as `discovery.k8s.io/v1`."""
        self.start_etcd()
        self.start_apiserver(disabled_apis)
        self.start_controllers()

    def stop(self) -> None:
        for child in (self._controllers, self._apiserver, self._etcd):
            if child is not None:
                child.kill()  # nothing here is worth an orderly end
        self.spawner.close()

    @contextlib.contextmanager
    def without_apis(self, *apis: str) -> Iterator[None]:
        """For a while the API server is one that has no such group/versions; the controllers start anew with it, the data stays."""
        self._restart(apis)
        try:
            yield
        finally:
            self._restart(())

    def _restart(self, disabled_apis: Sequence[str]) -> None:
        self.kill_controllers()
        self.kill_apiserver()
        self.start_apiserver(disabled_apis)
        self.start_controllers()

    # ---- one by one: tests take them away ----

    def start_etcd(self) -> None:
        self._etcd = self._child(
            "etcd",
            self._binaries.etcd,
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://{_ETCD}",
            f"--advertise-client-urls=http://{_ETCD}",
            f"--listen-peer-urls=http://{_ETCD_PEER}",
            f"--initial-advertise-peer-urls=http://{_ETCD_PEER}",
            f"--initial-cluster=default=http://{_ETCD_PEER}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def kill_etcd(self) -> None:
        self._running(self._etcd, "etcd").kill()

    def pause_etcd(self) -> None:
        """It neither answers nor closes anything until `resume_etcd`."""
        self._running(self._etcd, "etcd").pause()

    def resume_etcd(self) -> None:
        self._running(self._etcd, "etcd").resume()

    def start_apiserver(self, disabled_apis: Sequence[str] | None = None) -> None:
        """With the data it had. `disabled_apis` None: as the last time. Returns when it is ready."""
        if disabled_apis is not None:
            self._disabled_apis = tuple(disabled_apis)
        key = self.folder / "service-account.key"
        disabled = [f"--runtime-config={','.join(f'{api}=false' for api in self._disabled_apis)}"]
        self._apiserver = self._child(
            "kube-apiserver",
            self._binaries.kube_apiserver,
            f"--etcd-servers=http://{_ETCD}",
            f"--bind-address={API_SERVER}",
            f"--advertise-address={API_SERVER}",
            f"--secure-port={API_SERVER_PORT}",
            f"--cert-dir={self._certificates}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=TaintNodesByCondition",  # nobody here would take the taint away
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self._audit_log}",
            "--allow-privileged=true",
            "--profiling=false",
            "--v=1",
            *(disabled if self._disabled_apis else ()),
        )
        self._wait_ready(self._apiserver)

    def kill_apiserver(self) -> None:
        """As a crash does: connections are reset, etcd keeps the data."""
        self._running(self._apiserver, "kube-apiserver").kill()

    def pause_apiserver(self) -> None:
        """It neither answers nor closes anything until `resume_apiserver`."""
        self._running(self._apiserver, "kube-apiserver").pause()

    def resume_apiserver(self) -> None:
        self._running(self._apiserver, "kube-apiserver").resume()

    def start_controllers(self) -> None:
        self._controllers = self._child(
            "kube-controller-manager",
            self._binaries.kube_controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(_CONTROLLERS)}",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-endpoint-syncs=5",
            "--concurrent-service-endpoint-syncs=5",
            "--profiling=false",
            "--v=1",
        )

    def kill_controllers(self) -> None:
        self._running(self._controllers, "kube-controller-manager").kill()

    # ---- clients ----

    def write_kubeconfig(self, path: Path, token: str | None = None, server: str | None = None) -> None:
        """For the cluster's administrator, unless `token` is somebody else's. `server`: by which URL it is reached."""
        cluster = {
            "server": server or self.url,
            "certificate-authority": str(self.ca_file),
            "tls-server-name": "kubernetes",
        }
        if server is None:
            del cluster["tls-server-name"]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "envtest", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token or self.admin_token}}],
            "contexts": [{"name": "envtest", "context": {"cluster": "envtest", "user": "user"}}],
            "current-context": "envtest",
        }
        self._write(path, json.dumps(config, indent=2) + "\n")

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> tuple[int, bytes]:
        """One request as administrator: status and body. Raises OSError and HTTPException when there is no answer."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connection = http.client.HTTPSConnection(API_SERVER, API_SERVER_PORT, timeout=timeout_s, context=context)
        headers = {
            "Authorization": f"Bearer {self.admin_token}",
            "Content-Type": content_type,
            "Accept": "application/json",
        }
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def token_for(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """A token of the service account (TokenRequest). The API server grants no less than 600 seconds."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        status, answer = self.request("POST", path, body)
        if status != 201:
            raise EnvtestError(f"no token for {namespace}/{service_account}: {status} {answer.decode()}")
        return str(json.loads(answer)["status"]["token"])

    def requests_of(self, namespace: str, service_account: str) -> list[AuditEvent]:
        """Everything that the service account has asked so far and was answered, oldest first; of a watch, its beginning."""
        user = f"system:serviceaccount:{namespace}:{service_account}"
        with self._audit_log.open("rb") as log:
            lines = [json.loads(line) for line in log if user.encode() in line and line.endswith(b"\n")]
        events = (_audit_event(line) for line in lines if line["user"]["username"] == user)
        return [event for event in events if event is not None]

    def log_files(self) -> Iterable[Path]:
        return sorted(self.logs.glob("*.log"))

    # ---- details ----

    def _child(self, name: str, binary: Path, *flags: str) -> Child:
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}
        return self.spawner.start(name, [str(binary), *flags], self.logs / f"{name}.log", env=env)

    def _running(self, child: Child | None, name: str) -> Child:
        if child is None:
            raise EnvtestError(f"{name} was not started")
        return child

    def _wait_ready(self, child: Child) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        # it follows some APIs itself, and misses those it was told to do without
        path = "/readyz?exclude=informer-sync" if self._disabled_apis else "/readyz"
        while True:
            if not child.running:
                raise EnvtestError(f"{child.name} ended at its start:\n{tail(child.log)}")
            try:
                if self.ca_file.exists() and self.request("GET", path, timeout_s=2.0)[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass  # not listening yet
            if not poll_until(deadline, 0.1):
                raise EnvtestError(f"{child.name} is not ready after {_START_LIMIT_S:.0f} s:\n{tail(child.log)}")

    def _write(self, path: Path, text: str) -> None:
        path.touch(0o600)
        path.write_text(text)


def _audit_event(line: Mapping[str, Any]) -> AuditEvent | None:
    """None for the end of a watch, and for what is no object of the API (health, discovery)."""
    if "objectRef" not in line or (line["verb"] == "watch" and line["stage"] != "ResponseStarted"):
        return None
    of = line["objectRef"]
    resource = "/".join(filter(None, (of["resource"], of.get("subresource"))))
    return AuditEvent(
        at=line["stageTimestamp"],
        verb=line["verb"],
        group=of.get("apiGroup", ""),
        resource=resource,
        namespace=of.get("namespace", ""),
        name=of.get("name", ""),
        status=line["responseStatus"]["code"],
        permitted=line["annotations"]["authorization.k8s.io/decision"] == "allow",
    )


def _ec_private_key() -> str:
    """A new P-256 key in PEM (SEC 1, RFC 5915). The public half is optional there, and is worked out by whoever reads it."""
    scalar = (1 + secrets.randbelow(_P256_ORDER - 1)).to_bytes(32, "big")
    curve = bytes.fromhex("a00a06082a8648ce3d030107")  # [0] OID prime256v1
    body = b"\x02\x01\x01" + b"\x04\x20" + scalar + curve
    der = b"\x30" + bytes((len(body),)) + body
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
