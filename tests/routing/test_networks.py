"""Sets of networks, and the form of addresses."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.routing.networks import NetworkSet, packed_address, unpacked_address


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::1", "::1"),
    ],
)
def test_form(text: str, form: str) -> None:
    packed = packed_address(text)
    assert packed is not None
    assert unpacked_address(packed) == form


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "256.1.1.1",
        "1.2.3.4 ",
        "fe80::1%eth0",
        ":::",
        "a" * 1000,
        "1.2.3.4\0",
        "é",
    ],
)
def test_no_address(text: str) -> None:
    assert packed_address(text) is None
    if "%" not in text:
        with pytest.raises(ValueError, match="not an address"):
            NetworkSet(["0.0.0.0/0", "::/0"]).contains(text)


@pytest.mark.parametrize(
    ("networks", "address", "inside"),
    [
        ((), "192.0.2.1", False),
        (("0.0.0.0/0",), "192.0.2.1", True),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("0.0.0.0/0",), "::ffff:192.0.2.1", True),
        (("::/0",), "192.0.2.1", False),
        (("10.0.0.0/8", "192.0.2.1"), "10.255.0.1", True),
        (("10.0.0.0/8", "192.0.2.1"), "192.0.2.1", True),
        (("10.0.0.0/8", "192.0.2.1"), "192.0.2.2", False),
        (("10.1.2.3/8",), "10.200.0.0", True),  # host bits
        (("2001:db8::/32", "2001:db9::/48"), "2001:db9::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("::ffff:10.0.0.0/104",), "10.1.1.1", True),
    ],
)
def test_membership(networks: tuple[str, ...], address: str, inside: bool) -> None:
    assert NetworkSet(networks).contains(address) is inside
    assert bool(NetworkSet(networks)) is bool(networks)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "host", "10.0.0.0/8/8"])
def test_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        NetworkSet([text])


@given(
    st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str), max_size=6),
    st.integers(0, 32),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
)
def test_agrees_with_the_standard_library(bases: list[str], length: int, address: ipaddress.IPv4Address) -> None:
    networks = [f"{base}/{length}" for base in bases]
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    expected = any((mapped or address) in ipaddress.ip_network(n, strict=False) for n in networks)
    assert NetworkSet(networks).contains(str(address)) is expected
