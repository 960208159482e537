"""Address lists: what is parsed, what closes, who is refused. The scenarios of ingress-nginx's ipallowlist and ipdenylist tests are here."""

import pytest

from ingress.errors import VerdictReason
from ingress.middleware.ip_access import IPAccess
from tests.middleware.support import PREFIX, Worker, exchange, options, parsed


def statuses(annotations: dict[str, str], *addresses: str) -> list[int]:
    """0: let in."""
    result = parsed(annotations)
    assert not result.closed
    bound = Worker().bind(result.features)
    return [0 if (answer := bound.now(exchange(address=a))) is None else answer.status for a in addresses]


@pytest.mark.parametrize("name", ["allowlist-source-range", "whitelist-source-range"])
def test_both_names_of_the_allow_list(name: str) -> None:
    result = parsed({name: "18.0.0.0/8, 56.0.0.0/8"})
    assert result.policy("ip-access") == IPAccess(("18.0.0.0/8", "56.0.0.0/8"))
    assert statuses({name: "18.0.0.0/8, 56.0.0.0/8"}, "18.0.0.1", "56.1.2.3", "10.0.0.1") == [0, 0, 403]


def test_the_newer_name_wins_with_a_warning() -> None:
    result = parsed({"allowlist-source-range": "10.0.0.0/8", "whitelist-source-range": "11.0.0.0/8"})
    assert result.policy("ip-access") == IPAccess(("10.0.0.0/8",))
    assert result.fields == ["whitelist-source-range"]


def test_only_the_denied_are_refused() -> None:
    deny = {"denylist-source-range": "18.0.0.0/8, 56.0.0.1"}
    assert statuses(deny, "18.0.0.1", "56.0.0.1", "56.0.0.2") == [403, 403, 0]


def test_deny_goes_before_allow() -> None:
    lists = {
        "denylist-source-range": "18.1.0.0/16, 56.0.0.0/8",
        "whitelist-source-range": "18.0.0.0/8, 55.0.0.0/8",
    }
    assert statuses(lists, "18.1.0.1", "10.10.10.10", "18.4.0.1", "55.55.55.55") == [403, 403, 0, 0]


def test_families() -> None:
    mixed = {"whitelist-source-range": "10.0.0.0/8,2001:db8::/32"}
    assert statuses(mixed, "10.1.1.1", "::ffff:10.1.1.1", "2001:db8::1", "2001:db9::1", "::ffff:11.1.1.1") == [
        0,
        0,
        0,
        403,
        403,
    ]
    assert statuses({"denylist-source-range": "::ffff:10.0.0.0/104"}, "10.1.1.1", "::ffff:10.1.1.1") == [403, 403]
    assert statuses({"whitelist-source-range": "::/0"}, "10.0.0.1") == [403]
    assert statuses({"whitelist-source-range": "0.0.0.0/0"}, "10.0.0.1", "::1") == [0, 403]


@pytest.mark.parametrize("address", ["", "unix", "10.0.0.1:80", "\0"])
@pytest.mark.parametrize("name", ["whitelist-source-range", "denylist-source-range"])
def test_who_has_no_address_is_refused(name: str, address: str) -> None:
    assert statuses({name: "0.0.0.0/0" if name.startswith("w") else "10.0.0.0/8"}, address) == [403]


@pytest.mark.parametrize(
    "value", ["", "x", "10.0.0.0/8,", "10.0.0.0/8,nonsense", "10.0.0.0/40", "10.0.0.0/8\n11.0.0.0/8"]
)
@pytest.mark.parametrize("name", ["allowlist-source-range", "whitelist-source-range", "denylist-source-range"])
def test_a_bad_entry_closes(name: str, value: str) -> None:
    result = parsed({name: value})
    assert result.closed
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{PREFIX}{name}]"
    assert verdict.reason is VerdictReason.ACCESS_RULE_REJECTED


def test_options() -> None:
    both = options(allow_source_range="10.0.0.0/8", deny_source_range="10.1.0.0/16")
    assert parsed(options=both).policy("ip-access") == IPAccess(("10.0.0.0/8",), ("10.1.0.0/16",))
    replaced = parsed({"whitelist-source-range": "11.0.0.0/8"}, options=both)
    assert replaced.policy("ip-access") == IPAccess(("11.0.0.0/8",), ("10.1.0.0/16",))
    replaced = parsed({"denylist-source-range": "11.0.0.0/8"}, options=both)
    assert replaced.policy("ip-access") == IPAccess(("10.0.0.0/8",), ("11.0.0.0/8",))
    assert parsed().features == ()


@pytest.mark.parametrize(
    ("field", "key"),
    [("allow_source_range", "whitelist-source-range"), ("deny_source_range", "denylist-source-range")],
)
def test_a_bad_option_closes_whom_it_would_have_protected(field: str, key: str) -> None:
    bad = options(**{field: "10.0.0.0/8,x"})
    result = parsed(options=bad)
    assert key in result.closed
    (verdict,) = result.verdicts
    assert (verdict.field, verdict.reason) == ("", VerdictReason.ACCESS_RULE_REJECTED)
    assert key in verdict.message
    own = parsed({key: "11.0.0.0/8"}, options=bad)
    assert not own.closed


def test_routes_share_the_compiled_list() -> None:
    worker = Worker()
    cidrs = ",".join(f"10.{i // 256}.{i % 256}.0/25" for i in range(5000))
    features = parsed({"whitelist-source-range": cidrs}).features
    for _ in range(3):
        bound = worker.bind(features)
    assert len(worker.objects) == 1
    assert bound.now(exchange(address="10.3.7.1")) is None
    assert bound.now(exchange(address="10.3.7.129")) is not None
