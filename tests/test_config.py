import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import Address
from ingress.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        (":8080", "0.0.0.0", 8080),
        ("localhost:80", "127.0.0.1", 80),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::]:8443", "::", 8443),
        ("[::1]:65535", "::1", 65535),
    ],
)
def test_address(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected IP:PORT"),
        ("8080", "expected IP:PORT"),
        ("0.0.0.0", "expected IP:PORT"),
        ("0.0.0.0:", "expected IP:PORT"),
        ("0.0.0.0:65536", "expected IP:PORT"),
        ("0.0.0.0:-1", "expected IP:PORT"),
        ("0.0.0.0:８０", "expected IP:PORT"),
        ("0.0.0.0:" + "9" * 5000, "expected IP:PORT"),
        ("[::1]", "expected IP:PORT"),
        ("::1:80", r"write IPv6 as \[::1\]:80"),
        ("example.com:80", "'example.com' is not an IP"),
        ("256.0.0.1:80", "'256.0.0.1' is not an IP"),
        ("[]:80x", "expected IP:PORT"),
    ],
)
def test_address_rejected(text, message):
    with pytest.raises(ConfigError, match=message):
        Address.parse(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_address_round_trip(ip, port):
    address = Address(str(ip), port)
    assert Address.parse(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_a_config_error(text):
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (":8080", ":8080", True),
        (":8080", "127.0.0.1:8080", True),
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("127.0.0.1:8080", "127.0.0.2:8080", False),
        (":8080", ":8081", False),
        (":0", ":0", False),
        (":8080", "[::]:8080", False),
        ("[::]:8080", "[::1]:8080", True),
        ("[::1]:8080", "[0:0::1]:8080", True),
    ],
)
def test_overlap(one, other, overlap):
    assert Address.parse(one).overlaps(Address.parse(other)) is overlap
    assert Address.parse(other).overlaps(Address.parse(one)) is overlap
