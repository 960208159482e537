import asyncio
import logging
import socket
from contextlib import aclosing, asynccontextmanager

import pytest
import yaml

from ingress import __version__
from ingress.config import KubeSettings
from ingress.errors import ConfigError
from ingress.kube.api import Conflict, Forbidden, NotFound, Rejected, ResourceExpired, Unavailable
from ingress.kube.client import RELOAD_INTERVAL_S, KubeClient, _proxy_of, _socket
from ingress.kube.discovery import resource
from ingress.kube.faults import TEXT_LIMIT, fault, fault_of_answer, printable
from ingress.kube.reflector import Link, Reflector
from ingress.model.ref import Kind
from tests.kube.support import INGRESSES, FakeCluster, FakeServer, FakeTime, ingress, status, until

WATCH = {"watch": "1", "resourceVersion": "0"}

# of nobody; made with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 36500 -subj /CN=test`
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUBGR59JSlvbhi+Auzirk/x2O+1IUwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjMwOTIzMjdaGA8yMTI2MTAzMDA5MjMy
N1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKtD
uhhWksmROz4Am6sCI+VZHkvP5/BgOcrHnxmtCBKB/Vdi2L9n/Wauyb4GGOxKg9o9
o9YCaESVq3AwZ6Hv5EmjUzBRMB0GA1UdDgQWBBQUkJy+6nMPjrO79JfjeMuJyDKR
JzAfBgNVHSMEGDAWgBQUkJy+6nMPjrO79JfjeMuJyDKRJzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIFwMeD//f1EeT4IV2ddcBwUqWuHiez6tOQwM
z7tJysV5AiEArG5mBAC8D+gVpONROvtQ8rvhKUBDaDl+7kSDRoGGQjM=
-----END CERTIFICATE-----
"""


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
async def server(cluster):
    async with FakeServer(cluster) as server:
        yield server


def kubeconfig(folder, url, user=None, name="config", **cluster):
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


@asynccontextmanager
async def connected(path, **settings):
    client = await KubeClient.connect(KubeSettings(kubeconfig=path, **settings), environ={})
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(server, tmp_path):
    async with connected(kubeconfig(tmp_path, server.url, {"token": "secret-1"})) as client:
        yield client


# ---- requests -----------------------------------------------------------------------------------------------------


async def test_get(cluster, server, client):
    cluster.put("ingresses", ingress("a"))
    assert b'"name": "a"' in await client.get(INGRESSES, {"limit": "5"})
    assert cluster.asked("ingresses", limit="5")
    assert server.authorizations == ["Bearer secret-1"]
    assert server.user_agents == [f"aioingress/{__version__}"]


async def test_send(cluster, client):
    seen = []

    def look(method, path, query):
        seen.append((method, path, dict(query)))
        return 201, b"{}", {}

    cluster.faults.append(look)
    assert await client.send("POST", "/api/v1/x", {"a": 1}, query={"dryRun": "All"}) == b"{}"
    assert seen == [("POST", "/api/v1/x", {"dryRun": "All"})]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, ResourceExpired),
        (422, Rejected),
        (429, Unavailable),
        (302, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_refusals(cluster, client, code, expected):
    cluster.faults.append(lambda m, p, q: status(code, "the server's words"))
    with pytest.raises(expected, match="the server's words") as caught:
        await client.get(INGRESSES)
    assert type(caught.value) is expected
    with pytest.raises(expected):
        async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
            await anext(batches)


async def test_retry_after(cluster, client):
    cluster.faults.append(lambda m, p, q: status(503, "", **{"Retry-After": "12"}))
    with pytest.raises(Unavailable) as caught:
        await client.get(INGRESSES)
    assert caught.value.retry_after_s == 12.0


async def test_nobody_listens(server, client):
    await server.stop()
    with pytest.raises(Unavailable, match=rf"can't connect to 127\.0\.0\.1:{server.port}: Connection refused"):
        await client.get(INGRESSES)
    with pytest.raises(Unavailable, match="can't connect"):
        async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
            await anext(batches)


# ---- watch --------------------------------------------------------------------------------------------------------


async def test_watch(cluster, client):
    lines = []

    async def follow():
        async for line in client.watch(INGRESSES, WATCH, idle_timeout_s=5):
            lines.append(line)  # noqa: PERF401 - seen one by one

    task = asyncio.create_task(follow())
    await until(lambda: cluster.watching)
    cluster.say(b'{"a": 1}')
    await until(lambda: lines)
    cluster.say(b'{"b": "' + b"x" * 3_000_000 + b'"}')
    cluster.say(b'{"c": 3}')
    cluster.cut()
    await task
    assert [lines[0], len(lines[1]), lines[2]] == [b'{"a": 1}', 3_000_009, b'{"c": 3}']


async def test_a_watch_says_when_it_is_open_and_brings_lines_together(cluster, client):
    async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
        assert await anext(batches) == ()
        for number in range(20):
            cluster.say(b'{"n": %d}' % number)
        cluster.cut()
        found = [list(lines) async for lines in batches]
    assert [line for lines in found for line in lines] == [b'{"n": %d}' % number for number in range(20)]


async def test_a_watch_cut_in_a_line(cluster, client):
    async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
        await anext(batches)
        cluster.cut(b'cut:{"type": "ADD')
        with pytest.raises(Unavailable, match="middle of a line"):
            await anext(batches)


async def test_a_silent_watch(cluster, client):
    async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=0.05)) as batches:
        await anext(batches)
        with pytest.raises(Unavailable, match="no answer"):
            await anext(batches)


async def test_a_watch_that_is_left_is_closed(cluster, client):
    async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
        await anext(batches)
        assert cluster.watching == 1
    await until(lambda: not cluster.watching)


async def test_a_reflector_through_sockets(cluster, server, client):
    cluster.put("ingresses", ingress("a"))
    names = set()

    async def located():
        return resource(Kind.INGRESS)

    def deliver(reflector, batch):
        names.update(ref.name for ref in batch.upserts)
        names.difference_update(ref.name for ref in batch.removed)

    timing = FakeTime().timing
    reflector = Reflector("ingresses", client, located, deliver, Link(timing), timing, required=True, page_size=1)
    task = asyncio.create_task(reflector.run())
    await until(lambda: names == {"a"} and cluster.watching)
    cluster.put("ingresses", ingress("b"))
    await until(lambda: names == {"a", "b"})
    cluster.cut(b'cut:{"type": "ADD')
    cluster.put("ingresses", ingress("c"))
    await until(lambda: names == {"a", "b", "c"})
    assert reflector.relists == 0
    await server.stop()
    await until(lambda: not reflector.connected)
    cluster.delete("ingresses", "a")
    cluster.compact()
    await server.start()
    await until(lambda: names == {"b", "c"})
    assert reflector.connected
    task.cancel()
    await asyncio.wait([task])


# ---- credentials --------------------------------------------------------------------------------------------------


async def test_a_rotated_token_file_is_read_again_at_a_401(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("old")
    async with connected(kubeconfig(tmp_path, server.url, {"tokenFile": str(token)})) as client:
        server.accepted = {"Bearer old"}
        await client.get(INGRESSES)
        token.write_text("new\n")
        server.accepted = {"Bearer new"}
        await client.get(INGRESSES)
        async with aclosing(client.batches(INGRESSES, WATCH, idle_timeout_s=5)) as batches:
            await anext(batches)
        assert server.authorizations == ["Bearer old", "Bearer old", "Bearer new", "Bearer new"]


async def test_credentials_that_stay_refused_are_not_read_at_every_request(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with connected(kubeconfig(tmp_path, server.url, {"token": "hunter2"})) as client:
        server.accepted = set()
        now = 1000.0
        client._clock = lambda: now
        for expected in (2, 3):
            with pytest.raises(Forbidden, match="credentials"):
                await client.get(INGRESSES)
            assert len(server.authorizations) == expected
        now += RELOAD_INTERVAL_S
        with pytest.raises(Forbidden):
            await client.get(INGRESSES)
        assert len(server.authorizations) == 5
    assert "hunter2" not in caplog.text


async def test_credentials_that_vanished_are_told_and_the_old_ones_go_on(server, tmp_path, caplog):
    path = kubeconfig(tmp_path, server.url, {"token": "old"})
    async with connected(path) as client:
        path.unlink()
        server.accepted = set()
        with pytest.raises(Forbidden):
            await client.get(INGRESSES)
        assert "can't read the credentials again" in caplog.text
        server.accepted = {"Bearer old"}
        await client.get(INGRESSES)


async def test_exec_plugin(server, tmp_path):
    answer = tmp_path / "answer"
    answer.write_text(
        '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-plugin"}}'
    )
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [str(answer)]}
    async with connected(kubeconfig(tmp_path, server.url, {"exec": plugin})) as client:
        await client.get(INGRESSES)
    assert server.authorizations == ["Bearer from-plugin"]


@pytest.fixture
def service_account(tmp_path):
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("pod-1\n")
    return folder


IN_POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


async def test_service_account(server, service_account):
    (service_account / "ca.crt").write_text(CERTIFICATE)
    client = await KubeClient.connect(KubeSettings(), environ=IN_POD, service_account=service_account)
    try:
        assert client.server == "https://127.0.0.1:443"
        client.server = server.url  # the fake one has no TLS
        await client.get(INGRESSES)
        (service_account / "token").write_text("pod-2\n")
        server.accepted = {"Bearer pod-2"}
        await client.get(INGRESSES)
        assert server.authorizations == ["Bearer pod-1", "Bearer pod-1", "Bearer pod-2"]
    finally:
        await client.close()


async def test_a_service_account_without_certificate_authority(service_account):
    with pytest.raises(ConfigError, match="serviceaccount"):
        await KubeClient.connect(KubeSettings(), environ=IN_POD, service_account=service_account)


async def test_kubeconfig_wins_over_the_service_account(server, service_account, tmp_path):
    settings = KubeSettings(kubeconfig=kubeconfig(tmp_path, server.url))
    client = await KubeClient.connect(settings, environ=IN_POD, service_account=service_account)
    await client.close()
    assert client.server == server.url


@pytest.mark.parametrize("variable", ["KUBECONFIG", "HOME"])
async def test_default_kubeconfig(server, tmp_path, variable):
    (tmp_path / ".kube").mkdir()
    path = kubeconfig(tmp_path / ".kube", server.url)
    environ = {"HOME": str(tmp_path)} if variable == "HOME" else {"KUBECONFIG": f"/does/not/exist:{path}"}
    client = await KubeClient.connect(KubeSettings(), environ=environ, service_account=tmp_path)
    await client.close()
    assert client.server == server.url


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "it is no kubeconfig"),
        ("- 1", "it is no kubeconfig"),
        ("kind: Config", "current-context"),
        ("clusters: {", "config"),
        ("current-context: y\nclusters: []\nusers: []\ncontexts: []", "name y"),
    ],
)
async def test_broken_kubeconfigs(tmp_path, content, part):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match=part) as caught:
        await KubeClient.connect(KubeSettings(kubeconfig=path), environ={})
    assert str(caught.value).startswith(f"--kubeconfig {path}: ")
    assert "\n" not in str(caught.value)


async def test_missing_kubeconfigs(tmp_path):
    missing = tmp_path / "none"
    for settings, environ, words in (
        (KubeSettings(kubeconfig=missing), {}, f"--kubeconfig {missing}: there is no such file"),
        (KubeSettings(), {"KUBECONFIG": str(missing)}, "$KUBECONFIG"),
        (KubeSettings(), {"HOME": str(tmp_path)}, "no cluster to connect to"),
    ):
        with pytest.raises(ConfigError) as caught:
            await KubeClient.connect(settings, environ=environ, service_account=tmp_path / "sa")
        assert str(caught.value).startswith(words)


async def test_an_unknown_context(server, tmp_path):
    with pytest.raises(ConfigError, match=r"--context nope: .*nope"):
        await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(tmp_path, server.url), context="nope"), environ={})


@pytest.mark.parametrize("url", ["ftp://a", "nonsense", "https://"])
async def test_not_a_server(tmp_path, url):
    with pytest.raises(ConfigError, match="the server must be"):
        await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(tmp_path, url)), environ={})


async def test_a_broken_certificate_authority(tmp_path):
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", **{"certificate-authority-data": "bm9uc2Vuc2U="})
    with pytest.raises(ConfigError, match="certificate"):
        await KubeClient.connect(KubeSettings(kubeconfig=path), environ={})


# ---- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1", "NO_PROXY": "api.example"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": ".other"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_proxy(environ, proxy):
    assert _proxy_of("https://api.example:6443", environ) == proxy


def test_sockets_notice_a_dead_peer():
    with _socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15


def test_texts_are_printable_and_short():
    assert str(fault(403, "a\nb\x1b[2Jc")) == "a b [2Jc"
    assert len(str(fault(403, "x" * 10_000))) == TEXT_LIMIT
    assert printable("plain") == "plain"


def test_a_namespace_that_is_being_deleted_refuses_nobody_s_rights():
    ending = (
        b'{"message": "m", "details": {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}}'
    )
    assert isinstance(fault_of_answer(403, ending), NotFound)
    assert isinstance(fault_of_answer(403, ending.replace(b"Terminating", b"")), Forbidden)
    assert isinstance(fault_of_answer(403, b'{"message": "m", "details": {"causes": null}}'), Forbidden)


@pytest.mark.parametrize(
    ("code", "body", "header", "text", "seconds"),
    [
        (503, b"<html>no</html>", "", "the API server answered 503", None),
        (503, b"plain words\nmore", "soon", "the API server answered 503 plain words", None),
        (403, b"", "", "403 Forbidden", None),
        (401, b"", "", "the API server doesn't accept the credentials (401 Unauthorized)", None),
        (429, b'{"message": "m", "details": {"retryAfterSeconds": 3}}', "", "the API server answered 429 m", 3.0),
        (429, b'{"message": "m", "details": {"retryAfterSeconds": 3}}', "5", "the API server answered 429 m", 5.0),
    ],
)
def test_faults(code, body, header, text, seconds):
    found = fault_of_answer(code, body, header)
    assert str(found) == text
    assert getattr(found, "retry_after_s", None) == seconds
