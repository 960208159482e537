"""TLS as users have it in a cluster: certificates that come later and are renewed, Secrets that are no good, the default one; by the chart."""

import asyncio
import json
import re
import secrets
import ssl
import time

import pytest
from cryptography import x509

from tests.certificates import Issued, issue, revocations
from tests.cluster.support import (
    QUICK_END,
    Closed,
    Connection,
    Incomplete,
    Load,
    Release,
    echo_deployment,
    fetch,
    fetch_until,
    ingress,
    service,
    tls_secret,
    trusting,
)
from tests.cluster.test_install import _asked, assert_nothing_forbidden, refused
from tools.envtest.cluster import Cluster

HOST = "shop.example.com"
ROOT = issue(common_name="An authority", ca=True, number=1)
INTERMEDIATE = issue(common_name="Its intermediate", ca=True, by=ROOT, number=2)
DEFAULT = issue("*.example.net", number=3)
CLIENTS = issue(common_name="Clients", ca=True, number=4)
QUICK = {**QUICK_END, "workers": 2}
NGINX = "nginx.ingress.kubernetes.io/"


def leaf(*names: str, number: int = 5, by: Issued = INTERMEDIATE) -> Issued:
    """A new certificate each time, with a serial number of its own."""
    return issue(*names, number=number, by=by)


async def shown(address: str, host: str) -> bytes:
    """The certificate for this name, DER; empty where there was no handshake."""
    connection = Connection(address, 443, tls=trusting())
    try:
        async with connection:
            await connection.get(host)
    except (OSError, Closed, Incomplete):
        return b""
    return connection.certificate


def common_name(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).subject.rfc4514_string() if der else ""


async def becomes_shown(address: str, host: str, expected: Issued) -> None:
    deadline = time.monotonic() + 30
    while (found := await shown(address, host)) != expected.der:
        assert time.monotonic() < deadline, f"{host}: {common_name(found)}"
        await asyncio.sleep(0.05)


def messages(cluster: Cluster, namespace: str, name: str, reason: str) -> list[str]:
    """Of the Events about an Ingress."""
    events = cluster.get(f"/api/v1/namespaces/{namespace}/events")["items"]
    return [
        event["message"]
        for event in events
        if (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Ingress", name)
        and event["reason"] == reason
    ]


def said(cluster: Cluster, namespace: str) -> str:
    """Everything that anybody can read of it: Events, logs of the controller."""
    events = json.dumps(cluster.get(f"/api/v1/namespaces/{namespace}/events")["items"])
    logs = (cluster.folder / "nodes" / "logs" / "pods").glob(f"{namespace}_*/controller.log")
    return events + "".join(log.read_text() for log in logs)


def secret_of_keys(*keys: str) -> set[str]:
    """Lines of private keys: none of them may be found anywhere."""
    return {line for key in keys for line in key.splitlines() if line and not line.startswith("-----")}


@pytest.fixture
def shop(cluster: Cluster, namespace: str) -> str:
    cluster.apply(echo_deployment("shop"), service("shop"), namespace=namespace)
    cluster.wait_rollout("deployment", "shop", namespace)
    return namespace


@pytest.fixture
def elsewhere(cluster: Cluster):
    """A namespace of somebody else."""
    name = f"other-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    yield name
    cluster.delete(f"/api/v1/namespaces/{name}")


async def test_a_certificate_that_comes_later_and_is_renewed(cluster, shop, chart):
    """cert-manager's order: first the Ingress that names a Secret, then the Secret, then another content every few weeks."""
    release: Release = await asyncio.to_thread(chart, {"controller": {**QUICK, "replicaCount": 2}})
    address = await asyncio.to_thread(release.address)
    await asyncio.to_thread(cluster.apply, ingress("shop", HOST, "shop", secret="shop-tls"), namespace=shop)

    # Until it is there: the certificate of our own, the redirect, an Event that names what is missing.
    await fetch_until(address, HOST, status=308)
    assert "aioingress default certificate" in common_name(await shown(address, HOST))
    found = await asyncio.to_thread(
        cluster.eventually, lambda: messages(cluster, shop, "shop", "SecretNotFound"), "an Event of the Ingress"
    )
    assert "spec.tls[0]" in found[0]
    assert "shop-tls" in found[0]

    first = leaf(HOST)
    await asyncio.to_thread(cluster.apply, tls_secret("shop-tls", first, [INTERMEDIATE]), namespace=shop)
    await becomes_shown(address, HOST, first)
    response = await fetch(address, HOST, port=443, tls=trusting(ROOT))  # verifies the chain up to the root
    assert (response.status, response.json()["service"]) == (200, "shop")
    assert "max-age=" in response.headers["strict-transport-security"]
    redirect = await fetch(address, HOST, "/cart?a=1")
    assert (redirect.status, redirect.headers["location"]) == (308, f"https://{HOST}/cart?a=1")

    # Renewals while clients come and stay: every one verifies what it is shown.
    kept = Load(address, HOST, port=443, tls=trusting(ROOT))
    anew = Load(address, HOST, port=443, tls=trusting(ROOT), keep_alive=False, connections=2)
    async with kept, anew:
        last = first
        for _ in range(10):
            last = leaf(HOST)
            await asyncio.to_thread(cluster.apply, tls_secret("shop-tls", last, [INTERMEDIATE]), namespace=shop)
            await becomes_shown(address, HOST, last)
            await anew.reach(5)
    kept.check()
    anew.check()

    # A renewal that is no good: the last good one stays, and the Event says which key and why, but not what is in it.
    bad = json.loads(tls_secret("shop-tls", last, [INTERMEDIATE], **{"tls.key": leaf(HOST, number=6).key_pem}))
    await asyncio.to_thread(cluster.apply, json.dumps(bad), namespace=shop)
    found = await asyncio.to_thread(
        cluster.eventually, lambda: messages(cluster, shop, "shop", "InvalidCertificate"), "an Event of the Ingress"
    )
    assert "shop-tls" in found[0]
    assert "tls.key" in found[0]
    assert await shown(address, HOST) == last.der
    await asyncio.to_thread(assert_nothing_forbidden, release)
    text = await asyncio.to_thread(said, cluster, shop)
    assert [line for line in secret_of_keys(last.key_pem, leaf(HOST, number=6).key_pem) if line in text] == []


@pytest.mark.parametrize("scoped", [False, True], ids=["cluster", "namespaced"])
async def test_default_certificate_of_another_namespace(cluster, shop, chart, elsewhere, scoped):
    """`controller.defaultSSLCertificate`: for unknown names, none, and hosts without a certificate; renewed like others."""
    values = {"controller": {**QUICK, "defaultSSLCertificate": f"{elsewhere}/edge-tls"}}
    if scoped:
        values["rbac"] = {"scope": True}
        values["controller"] |= {"scope": {"enabled": True}, "ingressClassResource": {"enabled": False}}
    release: Release = await asyncio.to_thread(chart, values)
    address = await asyncio.to_thread(release.address)
    own = leaf(HOST)
    await asyncio.to_thread(
        cluster.apply,
        tls_secret("shop-tls", own, [INTERMEDIATE]),
        ingress("shop", HOST, "shop", secret="shop-tls"),
        ingress("plain", "plain.example.net", "shop", secret=""),
        namespace=shop,
    )
    await becomes_shown(address, HOST, own)
    assert "aioingress default certificate" in common_name(await shown(address, "nobody.example.net"))

    await asyncio.to_thread(cluster.apply, tls_secret("edge-tls", DEFAULT), namespace=elsewhere)
    await becomes_shown(address, "nobody.example.net", DEFAULT)
    assert (await fetch(address, "plain.example.net", port=443, tls=trusting(DEFAULT))).status == 200
    assert (await fetch(address, "plain.example.net")).status == 308  # a tls section without a Secret asks for it
    assert await shown(address, HOST) == own.der
    renewed = issue("*.example.net", number=6)
    await asyncio.to_thread(cluster.apply, tls_secret("edge-tls", renewed), namespace=elsewhere)
    await becomes_shown(address, "nobody.example.net", renewed)
    if scoped:
        allowed = {("networking.k8s.io", "ingressclasses", "list")}  # docs/kubernetes.md
        assert await asyncio.to_thread(refused, cluster, shop, "aioingress") <= allowed
    else:
        await asyncio.to_thread(assert_nothing_forbidden, release)
    assert ("", "secrets", "watch") in await asyncio.to_thread(_asked, cluster, shop)


async def test_secrets_of_others_are_refused(cluster, shop, chart, elsewhere):
    """A name in an Ingress reaches into its own namespace only, whatever is in the other one."""
    release: Release = await asyncio.to_thread(chart, {"controller": QUICK})
    address = await asyncio.to_thread(release.address)
    theirs = leaf("borrowed.example.com")
    authority = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "clients"}}
    authority["stringData"] = {"ca.crt": CLIENTS.pem, "ca.crl": revocations(CLIENTS)}
    users = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users"}, "stringData": {"auth": "a:b"}}
    await asyncio.to_thread(
        cluster.apply,
        tls_secret("theirs", theirs, [INTERMEDIATE]),
        json.dumps(authority),
        json.dumps(users),
        namespace=elsewhere,
    )
    reaching = {
        "clients": {f"{NGINX}auth-tls-secret": f"{elsewhere}/clients"},
        "users": {f"{NGINX}auth-type": "basic", f"{NGINX}auth-secret": f"{elsewhere}/users"},
    }
    await asyncio.to_thread(
        cluster.apply,
        ingress("borrowed", "borrowed.example.com", "shop", secret="theirs"),
        *(
            ingress(name, f"{name}.example.com", "shop", annotations=annotations, secret="")
            for name, annotations in reaching.items()
        ),
        namespace=shop,
    )
    await fetch_until(address, "borrowed.example.com", status=308)
    assert "aioingress default certificate" in common_name(await shown(address, "borrowed.example.com"))
    for name, status in (("clients", 403), ("users", 503)):  # closed, not open
        await fetch_until(address, f"{name}.example.com", status=status, port=443, tls=trusting())
        events = await asyncio.to_thread(
            cluster.eventually,
            lambda name=name: re.findall(rf"{elsewhere}/{name}", json.dumps(_events(cluster, shop, name))),
            f"an Event of {name}",
        )
        assert events
    await asyncio.to_thread(assert_nothing_forbidden, release)


def _events(cluster: Cluster, namespace: str, name: str) -> list[str]:
    events = cluster.get(f"/api/v1/namespaces/{namespace}/events")["items"]
    return [event["message"] for event in events if event["involvedObject"]["name"] == name]


async def test_client_certificates_by_the_chart(cluster, shop, chart):
    """The authorities come from a Secret, the revocation list too: a change of it holds for the next connection."""
    release: Release = await asyncio.to_thread(chart, {"controller": QUICK})
    address = await asyncio.to_thread(release.address)
    alice = issue(common_name="alice", by=CLIENTS, number=7)

    def authority(*revoked: Issued) -> str:
        data = {"ca.crt": CLIENTS.pem, "ca.crl": revocations(CLIENTS, *revoked)}
        return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "clients"}, "stringData": data})

    await asyncio.to_thread(
        cluster.apply,
        authority(),
        tls_secret("shop-tls", leaf(HOST), [INTERMEDIATE]),
        ingress("shop", HOST, "shop", annotations={f"{NGINX}auth-tls-secret": "clients"}, secret="shop-tls"),
        namespace=shop,
    )
    await fetch_until(address, HOST, status=400, port=443, tls=trusting())  # without a certificate
    folder = cluster.folder / shop
    folder.mkdir()
    (folder / "alice.pem").write_text(alice.pem + alice.key_pem)
    context = trusting(ROOT)
    context.load_cert_chain(folder / "alice.pem")
    response = await fetch(address, HOST, port=443, tls=context)
    assert response.status == 200
    assert response.json()["headers"]["Ssl-Client-Subject-Dn"] == ["CN=alice"]
    await asyncio.to_thread(cluster.apply, authority(alice), namespace=shop)
    await fetch_until(address, HOST, status=400, port=443, tls=context)
    await asyncio.to_thread(assert_nothing_forbidden, release)


async def test_options_of_tls_are_live(cluster, shop, chart):
    """A change of the ConfigMap holds for the next handshake; one that would end all of them is complained about instead."""
    release: Release = await asyncio.to_thread(chart, {"controller": {**QUICK, "config": {"ssl-protocols": "TLSv1.2"}}})
    address = await asyncio.to_thread(release.address)
    own = leaf(HOST)
    await asyncio.to_thread(
        cluster.apply,
        tls_secret("shop-tls", own, [INTERMEDIATE]),
        ingress("shop", HOST, "shop", secret="shop-tls"),
        namespace=shop,
    )
    await becomes_shown(address, HOST, own)
    old, new = trusting(ROOT), trusting(ROOT)
    old.maximum_version, new.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    assert (await fetch(address, HOST, port=443, tls=old)).status == 200

    def change(**data: str) -> None:
        path = f"/api/v1/namespaces/{shop}/configmaps/aioingress-controller"
        cluster.patch(path, {"data": {name.replace("_", "-"): value for name, value in data.items()}})

    await asyncio.to_thread(change, ssl_protocols="TLSv1.3", ssl_ciphers="nonsense")
    await fetch_until(address, HOST, port=443, tls=new)
    events = await asyncio.to_thread(
        cluster.eventually,
        lambda: [m for m in _events(cluster, shop, "aioingress-controller") if "ssl-ciphers" in m],
        "an Event of the ConfigMap",
    )
    assert "OpenSSL knows no cipher" in events[0]
    with pytest.raises(OSError):  # an alert, or the end of the connection
        await fetch(address, HOST, port=443, tls=old)
    await asyncio.to_thread(change, ssl_protocols="TLSv1.2 TLSv1.3")
    await fetch_until(address, HOST, port=443, tls=old)
