"""Which certificate a host gets, from the tls sections of all Ingresses that have it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ingress.config import TranslateSettings
from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model import ClusterState, Ingress, Kind, KubernetesObject, ObjectRef
from ingress.routing.table import HostPattern, RoutingTable, apply_delta, diff_tables
from ingress.routing.tls import Certificate, CertificateKey
from ingress.translate import Compilation, Compiler, compile_table
from ingress.translate.tls.expiry import expiry_verdicts
from tests.certificates import NOW, Issued, certificate, issue, secret_of, tls_secret

from ..build import ingress, path, rule, service, slice_of, state_of

A, B = certificate("a.test"), certificate("b.test", number=1)
WILD = certificate("*.test", number=2)
A_RSA = certificate("a.test", kind="rsa")
FALLBACK = Certificate(CertificateKey("fallback"), b"chain", b"key")


def tls(*hosts: str, secret: str = "cert") -> dict[str, Any]:
    return {"hosts": list(hosts), "secretName": secret}


def site(*hosts: str, name: str = "ing", namespace: str = "default", **more: Any) -> Ingress:
    return ingress(name, *(rule(host) for host in hosts), namespace=namespace, **more)


def compiled(*objects: KubernetesObject, **settings: Any) -> Compilation:
    backends = [part(namespace=namespace) for namespace in ("default", "other") for part in (service, slice_of)]
    return compile_table(
        state_of([*backends, *objects]),
        TranslateSettings(fallback_certificate=FALLBACK, **settings),
    )


def shown(result: Compilation, host: str) -> list[str] | None:
    """PEM of what a host shows; [] is the default certificate, None: nothing of TLS is said about it."""
    table = result.table
    found = table.tls_hosts.get(HostPattern(host))
    return None if found is None else [table.certificates[key].chain.decode() for key in found.certificates]


def is_configured(result: Compilation, host: str) -> bool:
    return result.table.hosts[HostPattern(host)].certificate


def findings(result: Compilation) -> list[tuple[str, str, str]]:
    return [(v.field, v.reason.value, v.value) for v in result.verdicts]


def only(result: Compilation) -> Verdict:
    (verdict,) = result.verdicts
    return verdict


# ---- by tls.hosts ----


def test_the_entry_that_lists_the_host() -> None:
    result = compiled(
        site("a.test", "b.test", tls=[tls("a.test"), tls("b.test", secret="b")]), tls_secret(A), tls_secret(B, "b")
    )
    assert (shown(result, "a.test"), shown(result, "b.test")) == ([A.pem], [B.pem])
    assert result.verdicts == ()
    assert {use.host: use.secret.name for use in result.certificates} == {"a.test": "cert", "b.test": "b"}
    assert set(result.table.certificates) == {
        *result.table.tls_hosts[HostPattern("a.test")].certificates,
        *result.table.tls_hosts[HostPattern("b.test")].certificates,
        FALLBACK.key,
    }


def test_upper_case() -> None:
    result = compiled(site("A.Test", tls=[tls("a.TEST")]), tls_secret(certificate("A.tesT", number=5)))
    assert shown(result, "a.test") == [certificate("A.tesT", number=5).pem]
    assert result.verdicts == ()


def test_wildcards_cover_one_label() -> None:
    result = compiled(site("*.test", "x.y.test", tls=[tls("*.test", "x.y.test")]), tls_secret(WILD))
    assert (shown(result, "*.test"), shown(result, "x.y.test")) == ([WILD.pem], [])
    assert only(result).value == "x.y.test"
    assert "not for this host, but for *.test" in only(result).message


def test_the_secret_of_another_namespace_is_not_seen() -> None:
    result = compiled(site("a.test", tls=[tls("a.test")]), tls_secret(A, namespace="other"))
    assert shown(result, "a.test") == []
    assert only(result).reason is VerdictReason.SECRET_NOT_FOUND


@pytest.mark.parametrize("name", ["other/cert", "a b", "../x", "Cert"])
def test_names_that_no_secret_has(name: str) -> None:
    result = compiled(site("a.test", tls=[tls("a.test", secret=name)]), tls_secret(A, namespace="other"))
    assert shown(result, "a.test") == []
    assert (only(result).field, only(result).reason) == ("spec.tls[0].secretName", VerdictReason.INVALID_FIELD)


def test_without_secret_name_the_default_certificate_is_asked_for() -> None:
    result = compiled(site("a.test", tls=[{"hosts": ["a.test"]}]))
    assert (shown(result, "a.test"), is_configured(result, "a.test"), result.verdicts) == ([], True, ())


def test_two_kinds_of_keys_for_one_host() -> None:
    result = compiled(
        site("a.test", tls=[tls("a.test"), tls("a.test", secret="rsa"), tls("a.test", secret="again")]),
        tls_secret(A), tls_secret(A_RSA, "rsa"), tls_secret(certificate("a.test", number=7), "again"),
    )  # fmt: skip
    assert shown(result, "a.test") == [A.pem, A_RSA.pem]


def test_a_bad_entry_beside_a_good_one() -> None:
    result = compiled(site("a.test", tls=[tls("a.test", secret="gone"), tls("a.test")]), tls_secret(A))
    assert shown(result, "a.test") == [A.pem]
    assert only(result).reason is VerdictReason.SECRET_NOT_FOUND


# ---- by certificate ----


def test_entries_without_hosts() -> None:
    result = compiled(site("a.test", "c.test", "d.e", tls=[{"secretName": "cert"}]), tls_secret(WILD))
    assert (shown(result, "a.test"), shown(result, "c.test"), shown(result, "d.e")) == ([WILD.pem], [WILD.pem], [])
    assert findings(result) == [("spec.tls", "InvalidCertificate", "d.e")]
    assert only(result).severity is Severity.WARNING


def test_an_entry_for_other_hosts_helps_out() -> None:
    """As in ingress-nginx; what no certificate covers gets the default one, and counts as configured."""
    result = compiled(site("a.test", "b.test", "c.d", tls=[tls("b.test")]), tls_secret(WILD))
    assert (shown(result, "a.test"), shown(result, "b.test"), shown(result, "c.d")) == ([WILD.pem], [WILD.pem], [])
    assert all(is_configured(result, host) for host in ("a.test", "b.test", "c.d"))


# ---- faults ----


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({}, "tls.crt"),
        ({"tls.crt": A.pem}, "tls.key"),
        ({"tls.crt": A.pem, "tls.key": B.key_pem}, "tls.key"),
        ({"tls.crt": "x", "tls.key": A.key_pem}, "tls.crt"),
    ],
)
def test_a_bad_secret_costs_its_hosts_only(data: Mapping[str, str], what: str) -> None:
    good = site("b.test", name="good", tls=[tls("b.test", secret="b")])
    bad = site("a.test", tls=[tls("a.test")])
    result = compiled(good, bad, tls_secret(B, "b"), secret_of(data))
    assert (shown(result, "a.test"), shown(result, "b.test")) == ([], [B.pem])
    assert is_configured(result, "a.test")
    verdict = only(result)
    assert (verdict.object, verdict.field, verdict.value) == ("Ingress default/ing", "spec.tls[0].secretName", "cert")
    assert verdict.reason is VerdictReason.INVALID_CERTIFICATE
    assert f"Secret cert can't be used, {what}: " in verdict.message
    assert verdict.message.endswith("clients get the default certificate for its hosts.")


def test_what_is_put_right_is_told() -> None:
    leaf = issue("a.test", common_name="leaf", by=issue(common_name="ca", number=8, ca=True), number=9)
    pem = issue(common_name="ca", number=8, ca=True).pem + leaf.pem
    result = compiled(site("a.test", tls=[tls("a.test")]), secret_of({"tls.crt": pem, "tls.key": leaf.key_pem}))
    assert only(result).severity is Severity.WARNING
    assert "put in order" in only(result).message


def test_a_host_without_rule() -> None:
    result = compiled(site("a.test", tls=[tls("a.test", "b.test", "*.c.test")]), tls_secret(A))
    assert shown(result, "b.test") is None
    assert [(v.field, v.value) for v in result.verdicts] == [
        ("spec.tls[0].hosts[1]", "b.test"),
        ("spec.tls[0].hosts[2]", "*.c.test"),
    ]


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"from-to-www-redirect": "true"}, "www.a.test"),
        ({"server-alias": "alias.test"}, "alias.test"),
        ({"server-alias": "*.alias.test"}, "x.alias.test"),
    ],
)
def test_other_names_of_a_host(annotations: dict[str, str], name: str) -> None:
    named = certificate("a.test", name)
    annotated = {f"nginx.ingress.kubernetes.io/{key}": value for key, value in annotations.items()}
    assert compiled(site("a.test", annotations=annotated, tls=[tls("a.test", name)]), tls_secret(named)).verdicts == ()
    apart = [tls("a.test"), tls(name, secret="b")]
    found = only(compiled(site("a.test", annotations=annotated, tls=apart), tls_secret(A), tls_secret(named, "b")))
    assert (found.field, found.value) == ("spec.tls[1].hosts[0]", name)
    assert "another name" in found.message


def test_a_wildcard_in_tls_for_an_exact_rule_is_no_mistake() -> None:
    result = compiled(site("a.test", tls=[tls("*.test")]), tls_secret(WILD))
    assert (shown(result, "a.test"), result.verdicts) == ([WILD.pem], ())


def test_an_ingress_does_not_serve_the_host_of_another() -> None:
    """In ingress-nginx neither: only Ingresses with a rule for the host are asked."""
    taker = site("c.test", name="taker", created="2020-01-01T00:00:00Z", tls=[tls("a.test", secret="evil")])
    result = compiled(taker, site("a.test"), tls_secret(certificate("a.test", number=3), "evil"))
    assert shown(result, "a.test") is None
    assert not is_configured(result, "a.test")


@pytest.mark.parametrize("rules", [[rule("")], []])
def test_rules_without_a_host_have_the_default_certificate(rules: list[Any]) -> None:
    spec: dict[str, Any] = {} if rules else {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}
    result = compiled(ingress("ing", *rules, tls=[{"secretName": "cert"}], **spec), tls_secret(A))
    assert result.table.tls_hosts == {}
    assert only(result).field == "spec.tls[0]"
    assert "Rules without a host have no other." in only(result).message


# ---- several Ingresses ----


def test_the_oldest_with_a_tls_section_decides() -> None:
    oldest = site("a.test", name="plain", created="2020-01-01T00:00:00Z")
    older = site("a.test", name="older", created="2021-01-01T00:00:00Z", tls=[tls("a.test")])
    newer = ingress(
        "newer", rule("a.test", path("/n")), created="2022-01-01T00:00:00Z", tls=[tls("a.test", secret="rsa")]
    )
    result = compiled(newer, older, oldest, tls_secret(A), tls_secret(A_RSA, "rsa"))
    assert shown(result, "a.test") == [A.pem]
    conflict = next(v for v in result.verdicts if v.field.startswith("spec.tls"))
    assert (conflict.object, conflict.reason, conflict.value) == (
        "Ingress default/newer",
        VerdictReason.CONFLICT,
        "a.test",
    )
    assert "Ingress default/older has it already, and is older" in conflict.message


def test_the_same_certificate_twice_is_no_conflict() -> None:
    one = ingress("one", rule("a.test", path("/1")), tls=[tls("a.test")])
    two = ingress("two", rule("a.test", path("/2")), tls=[tls("a.test", secret="copy")])
    result = compiled(one, two, tls_secret(A), tls_secret(A, "copy"))
    assert (shown(result, "a.test"), result.verdicts) == ([A.pem], ())


def test_an_older_one_without_certificate_is_not_displaced() -> None:
    """Its Secret is missing: the default certificate, not that of whoever comes later."""
    older = ingress(
        "older", rule("a.test", path("/1")), created="2021-01-01T00:00:00Z", tls=[tls("a.test", secret="gone")]
    )
    newer = ingress("newer", rule("a.test", path("/2")), created="2022-01-01T00:00:00Z", tls=[tls("a.test")])
    result = compiled(older, newer, tls_secret(A))
    assert shown(result, "a.test") == []


# ---- wildcards stand in ----


def test_a_host_without_tls_shows_the_certificate_of_its_wildcard() -> None:
    result = compiled(site("*.test", tls=[tls("*.test")]), site("a.test", name="plain"), tls_secret(WILD))
    assert shown(result, "a.test") is None  # by the look-up of the name
    assert is_configured(result, "a.test")
    assert result.table.hosts[HostPattern("a.test")].features == result.table.hosts[HostPattern("*.test")].features


def test_what_else_is_said_about_such_a_host_keeps_that_certificate() -> None:
    plain = site("a.test", name="plain", annotations={"nginx.ingress.kubernetes.io/ssl-ciphers": "HIGH"})
    result = compiled(site("*.test", tls=[tls("*.test")]), plain, tls_secret(WILD))
    assert shown(result, "a.test") == [WILD.pem]
    assert result.table.tls_hosts[HostPattern("a.test")].ciphers == "HIGH"


def test_the_wildcard_comes_and_goes() -> None:
    compiler = Compiler(TranslateSettings())
    plain, wild, secret = site("a.test", name="plain"), site("*.test", tls=[tls("*.test")]), tls_secret(WILD)
    for objects in (
        [plain],
        [plain, wild, secret],
        [plain, wild],
        [plain, wild, tls_secret(WILD)],
        [plain],
        [wild, plain, secret],
    ):
        state = state_of(objects)
        found = compiler.compile(state, None)
        assert found == compile_table(state, TranslateSettings())
        assert is_configured(found, "a.test") == (wild in objects)


# ---- aliases: `tls.choice` meets them as their host; what counts here is whether its certificate is for them ----


def aliased(*names: str, secret: str = "cert") -> Ingress:
    return site(
        "a.test", tls=[tls("a.test", secret=secret)], annotations={"aioingress.io/server-alias": ", ".join(names)}
    )


def certified(result: Compilation) -> dict[str, bool]:
    return {str(name): alias.certificate for name, alias in result.table.aliases.items()}


def test_aliases_that_the_certificate_is_for() -> None:
    both = certificate("a.test", "b.test", number=30)
    result = compiled(aliased("b.test", "c.test", "~^d"), tls_secret(both))
    assert certified(result) == {"b.test": True, "c.test": False, "~^d": False}


def test_an_alias_follows_a_rotation() -> None:
    cluster = Cluster(aliased("b.test"), tls_secret(A))
    for secret, expected in ((certificate("a.test", "b.test", number=33), True), (A, False)):
        cluster.change(tls_secret(secret))
        assert certified(cluster.result) == {"b.test": expected}
        assert cluster.agrees()


def test_a_default_certificate_that_comes_later_may_be_for_an_alias() -> None:
    cluster = Cluster(aliased("b.test", "c.test", secret=""), default_certificate=("default", "default"))
    assert certified(cluster.result) == {"b.test": False, "c.test": False}
    cluster.change(tls_secret(B, "default"))
    assert certified(cluster.result) == {"b.test": True, "c.test": False}
    assert cluster.agrees()


# ---- the default certificate ----


def test_the_fallback_is_the_default_without_any() -> None:
    table = compiled(site("a.test")).table
    assert (table.default_certificate, table.certificates) == (FALLBACK.key, {FALLBACK.key: FALLBACK})


def test_the_default_certificate_of_a_secret() -> None:
    result = compiled(
        site("a.test", tls=[tls()]), tls_secret(B, "default", "other"), default_certificate=("other", "default")
    )
    table = result.table
    assert table.default_certificate is not None
    assert table.certificates[table.default_certificate].chain.decode() == B.pem
    assert FALLBACK.key not in table.certificates
    assert [(use.host, str(use.secret)) for use in result.certificates] == [("", "Secret other/default")]
    assert ObjectRef(Kind.SECRET, "other", "default") in result.references


@pytest.mark.parametrize(
    ("secret", "reason"), [(None, "SecretNotFound"), (secret_of({}, "default"), "InvalidCertificate")]
)
def test_a_bad_default_certificate(secret: KubernetesObject | None, reason: str) -> None:
    result = compiled(*([] if secret is None else [secret]), default_certificate=("default", "default"))
    assert result.table.default_certificate == FALLBACK.key
    assert (only(result).object, only(result).reason.value) == ("Secret default/default", reason)
    assert "a self-signed certificate is shown" in only(result).message


def test_replicas_have_one_id_whatever_their_fallback() -> None:
    state = state_of([site("a.test", tls=[tls("a.test")]), tls_secret(A)])
    other = Certificate(CertificateKey("another"), b"x", b"y")
    one, two = (compile_table(state, TranslateSettings(fallback_certificate=f)).table for f in (FALLBACK, other))
    assert one.id == two.id
    assert one.default_certificate != two.default_certificate


def test_the_id_says_which_certificates() -> None:
    def table_id(*secrets: KubernetesObject, **settings: Any) -> str:
        return compiled(site("a.test", tls=[tls("a.test")]), *secrets, **settings).table.id

    default = tls_secret(B, "default")
    ids = [
        table_id(),
        table_id(tls_secret(A)),
        table_id(tls_secret(certificate("a.test", number=4))),
        table_id(tls_secret(A), default),
        table_id(tls_secret(A), default, default_certificate=("default", "default")),
    ]
    assert ids[1] == ids[3]
    assert len(set(ids)) == 4


# ---- changes ----


class Cluster:
    """A compiler that is told what changed, and a worker that follows it by deltas."""

    def __init__(self, *objects: KubernetesObject, **settings: Any) -> None:
        self.settings = TranslateSettings(fallback_certificate=FALLBACK, **settings)
        self.objects = {o.ref: o for o in objects}
        self.compiler = Compiler(self.settings)
        self.result = self.compiler.compile(self.state, None)
        self.follower: RoutingTable = self.result.table

    @property
    def state(self) -> ClusterState:
        return state_of([service(), slice_of(), *self.objects.values()])

    def change(self, *objects: KubernetesObject, gone: tuple[KubernetesObject, ...] = ()) -> Any:
        """The delta."""
        self.objects |= {o.ref: o for o in objects}
        for one in gone:
            del self.objects[one.ref]
        changed = frozenset(o.ref for o in (*objects, *gone))
        self.result = self.compiler.compile(self.state, changed)
        delta = diff_tables(self.follower, self.result.table)
        self.follower = apply_delta(self.follower, delta)
        assert self.follower == self.result.table
        return delta

    def agrees(self) -> bool:
        return self.result == compile_table(self.state, self.settings)


def two_sites() -> list[KubernetesObject]:
    return [
        site("a.test", tls=[tls("a.test")]),
        site("b.test", name="b", tls=[tls("b.test", secret="b")]),
        tls_secret(B, "b"),
    ]


def test_a_rotation_is_a_delta_of_one_certificate() -> None:
    cluster = Cluster(*two_sites(), tls_secret(A))
    (old,) = cluster.result.table.tls_hosts[HostPattern("a.test")].certificates
    new = certificate("a.test", number=6)
    delta = cluster.change(tls_secret(new))
    assert (list(delta.tls_hosts), delta.hosts, delta.upstreams) == (["a.test"], {}, {})
    assert [c.chain.decode() for c in delta.certificates.values()] == [new.pem]
    assert delta.removed_certificates == (old,)
    assert cluster.agrees()


def test_a_secret_that_comes_later() -> None:
    cluster = Cluster(*two_sites())
    assert shown(cluster.result, "a.test") == []
    assert ObjectRef(Kind.SECRET, "default", "cert") in cluster.result.references
    cluster.change(tls_secret(A))
    assert (shown(cluster.result, "a.test"), cluster.result.verdicts) == ([A.pem], ())
    assert cluster.agrees()
    cluster.change(gone=(tls_secret(A),))
    assert shown(cluster.result, "a.test") == []
    assert cluster.agrees()


def test_a_good_certificate_outlives_the_garbage_that_replaces_it() -> None:
    """As in ingress-nginx, until the Secret is deleted. A controller that starts anew knows nothing of it."""
    cluster = Cluster(*two_sites(), tls_secret(A))
    delta = cluster.change(secret_of({"tls.crt": "garbage", "tls.key": "x"}))
    assert (delta.certificates, delta.tls_hosts, delta.removed_certificates) == ({}, {}, ())
    assert shown(cluster.result, "a.test") == [A.pem]
    assert "the certificate that it held before stays in use" in only(cluster.result).message
    assert not cluster.agrees()
    cluster.change(secret_of({"tls.crt": "other garbage"}))
    assert shown(cluster.result, "a.test") == [A.pem]
    cluster.change(gone=(tls_secret(A),))
    assert shown(cluster.result, "a.test") == []
    cluster.change(secret_of({"tls.crt": "garbage"}))
    assert shown(cluster.result, "a.test") == []
    assert cluster.agrees()


def test_so_does_a_good_default_certificate() -> None:
    cluster = Cluster(tls_secret(B, "default"), default_certificate=("default", "default"))
    good = cluster.result.table.default_certificate
    assert cluster.change(secret_of({}, "default")).default_certificate_changed is False
    assert cluster.result.table.default_certificate == good
    assert cluster.change(gone=(tls_secret(B, "default"),)).default_certificate == FALLBACK.key
    assert cluster.agrees()


def test_the_last_reference_goes() -> None:
    cluster = Cluster(*two_sites(), tls_secret(A))
    delta = cluster.change(site("a.test"))
    assert delta.removed_tls_hosts == ("a.test",)
    assert len(delta.removed_certificates) == 1
    assert cluster.agrees()


def test_other_edits_look_at_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(*two_sites(), tls_secret(A))
    before = cluster.result.table
    monkeypatch.setattr("ingress.translate.tls.store.inspect_secret", None)
    cluster.change(site("c.test", name="c"))
    cluster.change(site("a.test", "d.test", tls=[tls("a.test")]))  # the same Secret object
    assert cluster.result.table.certificates.keys() == before.certificates.keys()
    cluster.change(slice_of("web", "10.0.0.9"))
    assert cluster.result.table.tls_hosts[HostPattern("b.test")] is before.tls_hosts[HostPattern("b.test")]


def test_a_secret_is_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingress.translate.tls import store

    seen: list[str] = []
    real = store.inspect_secret
    monkeypatch.setattr(store, "inspect_secret", lambda s: seen.append(s.metadata.name) or real(s))  # type: ignore[func-returns-value]
    compiled(*(site(f"h{i}.test", name=f"i{i}", tls=[tls(f"h{i}.test")]) for i in range(20)), tls_secret(WILD))
    assert seen == ["cert"]


# ---- expiry ----


def dated(issued: Issued) -> list[str]:
    result = compiled(site("a.test", "b.test", tls=[tls("a.test", "b.test")]), tls_secret(issued))
    return [v.message for v in expiry_verdicts(result.certificates, NOW)]


@pytest.mark.parametrize(("days", "expected"), [(-1, "expired on"), (9, "expires on"), (11, ""), (0, "expires on")])
def test_expiry(days: int, expected: str) -> None:
    end = NOW + timedelta(days=days, seconds=1)
    made = issue("a.test", "b.test", not_before=NOW - timedelta(days=30), not_after=end)
    assert [f"The certificate in Secret cert {expected} {end:%Y-%m-%d %H:%M} UTC" in text for text in dated(made)] == (
        [True] if expected else []
    )


def test_not_valid_yet() -> None:
    (text,) = dated(issue("a.test", "b.test", not_before=NOW + timedelta(days=1)))
    assert "is not valid before" in text


def test_expiry_of_the_default_certificate() -> None:
    soon = tls_secret(issue("x.test", not_after=NOW + timedelta(days=2)), "default")
    result = compiled(soon, default_certificate=("default", "default"))
    (verdict,) = expiry_verdicts(result.certificates, NOW)
    assert (verdict.object, verdict.reason, verdict.severity) == (
        "Secret default/default",
        VerdictReason.CERTIFICATE_EXPIRY,
        Severity.WARNING,
    )


def test_nothing_secret_is_shown() -> None:
    result = compiled(site("a.test", tls=[tls("a.test")]), tls_secret(A), secret_of({"tls.key": A.key_pem}, "x"))
    body = "".join(A.key_pem.splitlines()[1:-1])
    text = repr(result) + repr(result.table) + repr(result.certificates) + str(result.verdicts)
    for start in range(0, len(body) - 16, 16):
        assert body[start : start + 16] not in text
    assert replace(TranslateSettings(), fallback_certificate=FALLBACK).__repr__().count("bytes)") == 2
