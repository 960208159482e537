"""TLS by options: new handshakes go by the new ones, connections that are open go on."""

import ssl

import pytest

from tests.proxy.options import Options
from tests.proxy.support import Client, Proxy, one_backend
from tests.proxy.test_tls import ROOT, with_tls

NAME = "default.example"


def trusting(*, verify: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def connect(proxy: Proxy, server_name: str = NAME, **changes: object) -> Client:
    context = trusting(verify=server_name == NAME)
    for name, value in changes.items():
        setattr(context, name, value)
    return await proxy.client(tls=context, server_name=server_name)


def session(client: Client) -> ssl.SSLObject:
    found: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
    return found


async def test_protocols() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend, wrap=with_tls)
        options.set()
        old = await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)
        assert (await old.get()).status == 200
        options.set(ssl_protocols="TLSv1.3")
        with pytest.raises(ssl.SSLError):
            await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)
        new = await connect(proxy)
        assert (await new.get()).status == 200
        assert session(new).version() == "TLSv1.3"
        assert (await old.get()).status == 200
        options.set(ssl_protocols="SSLv3")  # a mistake changes nothing
        with pytest.raises(ssl.SSLError):
            await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)


async def test_ciphers() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend, wrap=with_tls)
        for suffix in ("AES256-GCM-SHA384", "CHACHA20-POLY1305"):
            options.set(ssl_ciphers=f"ECDHE-ECDSA-{suffix}:ECDHE-RSA-{suffix}")
            client = await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)
            assert (await client.get()).status == 200
            cipher = session(client).cipher()
            assert cipher is not None
            assert cipher[0].endswith(suffix)
        options.set(ssl_ciphers="ECDHE-RSA-AES256-GMC-SHA384")  # a mistake changes nothing
        client = await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)
        assert (await client.get()).status == 200


async def test_unknown_hosts_are_refused() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend, wrap=with_tls)
        options.set()
        assert (await (await connect(proxy, "unknown.example")).get()).status == 200
        options.set(ssl_reject_handshake="true")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await (await connect(proxy, "unknown.example")).get()


async def test_settings_of_sessions_are_taken() -> None:
    """What they do to handshakes is OpenSSL's work (tests/tls)."""
    async with one_backend() as (proxy, backend):
        Options(proxy, backend, wrap=with_tls).set(ssl_session_tickets="true", ssl_session_timeout="5m")
        assert (proxy.plane.settings.tls.session_tickets, proxy.plane.settings.tls.session_timeout_s) == (True, 300)
        assert (await (await connect(proxy)).get()).status == 200


async def test_variables_of_tls_in_the_log() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend, wrap=with_tls).set(
            log_format_upstream="$ssl_protocol $ssl_cipher $ssl_server_name $scheme"
        )
        client = await connect(proxy, maximum_version=ssl.TLSVersion.TLSv1_2)
        await client.get()
        protocol, cipher, name = (value or b"" for value in proxy.log.records[-1].extra[:3])
        assert (protocol, name) == (b"TLSv1.2", b"default.example")
        assert cipher.startswith(b"ECDHE-")
