"""Sets of networks, against the library's own membership; the form of addresses."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.routing.networks import NetworkSet, packed_address, unpacked_address

ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n))),
    st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n))),
    st.sampled_from(["10.0.0.0", "10.0.0.255", "10.0.1.0", "9.255.255.255", "::", "::1", "255.255.255.255", "0.0.0.0"]),
)
NETWORKS = st.lists(
    st.builds(
        lambda a, p: str(ipaddress.ip_network((a, p % (33 if "." in a else 129)), strict=False)),
        ADDRESSES,
        st.integers(0, 200),
    ),
    max_size=12,
)


@given(NETWORKS, st.lists(ADDRESSES, max_size=20))
def test_agrees_with_the_library(networks: list[str], addresses: list[str]) -> None:
    made = NetworkSet(networks)
    plain = [ipaddress.ip_network(n) for n in networks]
    edges = [str(end) for n in plain for end in (n.network_address, n.broadcast_address)]
    for text in [*addresses, *edges]:
        address = ipaddress.ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
        assert made.contains(text) == any(address.version == n.version and address in n for n in plain), text


def test_mapped_and_scoped_addresses() -> None:
    made = NetworkSet(["10.0.0.0/8", "fe80::/10"])
    assert made.contains("::ffff:10.1.2.3")
    assert not made.contains("::ffff:11.1.2.3")
    assert made.contains("fe80::1%eth0")
    assert not NetworkSet(["::/0"]).contains("10.0.0.1")
    assert not NetworkSet(["::/0"]).contains("::ffff:10.0.0.1")


@pytest.mark.parametrize("text", ["", "unix:", "10.0.0", "10.0.0.0.1", "::g", "localhost", "1" * 100, "\0"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        NetworkSet(["0.0.0.0/0"]).contains(text)


def test_neighbours_are_merged() -> None:
    made = NetworkSet([f"10.0.{i}.0/24" for i in range(256)])
    assert made.size == 256
    assert len(made._starts4) == 1
    assert repr(made) == "<NetworkSet of 256>"


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
