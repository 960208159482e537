"""The parser of the first message: what real clients send, in any fragmentation, and whatever else."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.tls.clienthello import HELLO_LIMIT_BYTES, BadHello, ClientHello, NotTLS, parse_client_hello


def real_hello(name: str | None = None, alpn: tuple[str, ...] = (), **limits: ssl.TLSVersion) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for limit, version in limits.items():
        setattr(context, limit, version)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, content)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(2, b"\x00" + vector(2, name)))


def hello(
    extensions: bytes | None = b"",
    *,
    version: int = 0x0303,
    session: bytes = b"",
    suites: bytes = b"\x13\x01",
    compression: bytes = b"\x00",
    tail: bytes = b"",
) -> bytes:
    """A handshake message."""
    body = version.to_bytes(2, "big") + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, compression)
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + tail)


def records(message: bytes, size: int = 16384) -> bytes:
    return b"".join(b"\x16\x03\x01" + vector(2, message[at : at + size]) for at in range(0, len(message), size))


REAL = real_hello("Foo.Example.COM", ("h2", "http/1.1"))


def test_what_openssl_sends():
    found = parse_client_hello(REAL)
    assert found == ClientHello("foo.example.com", (b"h2", b"http/1.1"), (0x0304, 0x0303))


@pytest.mark.parametrize(
    ("limits", "versions"),
    [
        ({"maximum_version": ssl.TLSVersion.TLSv1_2}, (0x0303,)),
        ({"minimum_version": ssl.TLSVersion.TLSv1_3}, (0x0304,)),
    ],
)
def test_versions(limits, versions):
    found = parse_client_hello(real_hello("a.b", **limits))
    assert found is not None
    assert found.versions == versions


def test_no_name_no_alpn():
    found = parse_client_hello(real_hello())
    assert found is not None
    assert (found.server_name, found.alpn) == ("", ())


def test_no_extensions_at_all():
    assert parse_client_hello(records(hello(None))) == ClientHello("", (), (0x0303,))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_every_prefix_needs_more(size):
    """However it arrives: nothing is decided early, and the last byte decides."""
    for end in range(0, len(REAL), size):
        assert parse_client_hello(REAL[:end]) is None
    assert parse_client_hello(REAL) is not None


@given(st.integers(9, 400))
def test_spread_over_records(size):
    assert parse_client_hello(records(REAL[5:], size)) == parse_client_hello(REAL)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b"a.b", "a.b"),
        (b"A.B.", "a.b"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"under_score.example", "under_score.example"),
        (b"127.0.0.1", "127.0.0.1"),
        # what no host can be called counts as no name
        (b"a.b:443", ""),
        (b"a b", ""),
        (b"a\x00b", ""),
        (b"*.a.b", ""),
        (b"\xc3\xbc.de", ""),
        (b".", ""),
        (b"a..b", ""),
        (b"a.b\n", ""),
        (b"x" * 64 + b".de", ""),
        (b".".join([b"x" * 60] * 5), ""),
    ],
)
def test_names(name, found):
    parsed = parse_client_hello(records(hello(server_name(name))))
    assert parsed is not None
    assert parsed.server_name == found


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSL 2
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
        b"PROXY TCP4 ",
        b"\x00",
    ],
)
def test_not_tls(data):
    with pytest.raises(NotTLS):
        parse_client_hello(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x40\x01",  # longer than a record may be
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # ServerHello
        records(b"\x01" + (HELLO_LIMIT_BYTES + 1).to_bytes(3, "big")),
        records(hello() + b"\x00"),
        records(hello(tail=b"\x00")),
        records(hello(session=bytes(33))),
        records(hello(suites=b"")),
        records(hello(suites=b"\x13\x01\x13")),
        records(hello(compression=b"")),
        records(hello(b"\x00")),
        records(hello(extension(0, b"")[:-1])),
        records(hello(server_name(b"a.b") * 2)),
        records(hello(server_name(b""))),
        records(hello(extension(0, vector(2, b"\x01" + vector(2, b"a.b"))))),
        records(hello(extension(0, vector(2, (b"\x00" + vector(2, b"a.b")) * 2)))),
        records(hello(extension(16, b"\x00\x00"))),
        records(hello(extension(16, vector(2, b"\x00\x00")))),
        records(hello(extension(43, b"\x00"))),
        records(hello(extension(43, b"\x03\x03\x04\x03"))),
        records(hello(), 1)[:6] + b"\x17\x03\x01\x00\x01x",
    ],
)
def test_bad_hello(data):
    with pytest.raises(BadHello):
        parse_client_hello(data)


def test_too_many_records():
    with pytest.raises(BadHello):
        parse_client_hello(records(REAL[5:], 1))


@given(st.binary(max_size=400))
def test_any_bytes_are_taken_or_refused(data):
    for start in (data, b"\x16\x03\x01" + data, records(hello(data)), records(b"\x01" + data)):
        try:
            parse_client_hello(start)
        except (NotTLS, BadHello):
            pass


@given(st.integers(0, len(REAL) - 1), st.integers(0, 255))
def test_a_changed_byte_is_taken_or_refused(position, value):
    changed = bytearray(REAL)
    changed[position] = value
    try:
        found = parse_client_hello(changed)
    except (NotTLS, BadHello):
        return
    assert found is None or found.server_name == found.server_name.lower()


@given(st.binary(max_size=300), st.data())
def test_the_verdict_never_changes_with_more_bytes(data, draws):
    """What was refused stays refused, whatever comes behind it."""
    try:
        parse_client_hello(b"\x16\x03" + data)
    except BadHello:
        with pytest.raises(BadHello):
            parse_client_hello(b"\x16\x03" + data + draws.draw(st.binary(max_size=50)))
