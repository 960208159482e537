"""The options ConfigMap: what is taken, what is refused and how, and what stays in force."""

import dataclasses
import random
from typing import Any

import pytest

from ingress.config import ProxySettings, TranslateSettings
from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model import ConfigMap, Kind, KubernetesObject, ObjectRef
from ingress.model.cluster import ClusterState
from ingress.model.decode import decode_object
from ingress.routing.table import RetryOn, diff_tables
from ingress.translate.compiler import Compiler
from ingress.translate.options.keys import KEYS
from ingress.translate.options.parse import ParsedOptions, parse_options
from tests.translate.build import ingress, rule, service, slice_of, state_of

SETTINGS = TranslateSettings(config_map=("edge", "options"))
NAME = ("edge", "options")
CHANGED = frozenset((ObjectRef(Kind.CONFIG_MAP, *NAME),))


def config_map(data: dict[str, str], name: str = "options", namespace: str = "edge") -> ConfigMap:
    found = decode_object(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": name},
            "data": data,
        },
        "",
    )
    assert isinstance(found, ConfigMap)
    return found


def options(**data: str) -> ConfigMap:
    return config_map({key.replace("_", "-"): value for key, value in data.items()})


def parsed(last: ParsedOptions | None = None, **data: str) -> ParsedOptions:
    return parse_options(options(**data), ProxySettings(), None if last is None else last.good)


def state(found: ConfigMap | None, *others: ConfigMap) -> ClusterState:
    maps = {(o.metadata.namespace, o.metadata.name): o for o in others}
    return ClusterState(config_maps=maps | ({NAME: found} if found else {}))


def only(result: ParsedOptions) -> Verdict:
    (verdict,) = result.verdicts
    return verdict


def test_without_options_everything_is_as_started() -> None:
    result = parsed()
    assert result.options.proxy is None
    assert result == ParsedOptions()


def test_options_are_laid_over_what_the_process_was_started_with() -> None:
    base = ProxySettings(drain_timeout_s=7, access_log=False)
    proxy = parse_options(options(keep_alive="10", disable_access_log="false"), base).options.proxy
    assert proxy == dataclasses.replace(base, keepalive_timeout_s=10)


def test_a_bad_value_leaves_the_last_good_one_in_force() -> None:
    before = parsed(keep_alive="10")
    after = parsed(before, keep_alive="10m", proxy_read_timeout="30")
    assert after.options.proxy is not None
    assert after.options.proxy.keepalive_timeout_s == 10
    assert after.options.traffic.read_timeout_s == 30  # others are not held up
    verdict = only(after)
    assert (verdict.object, verdict.field, verdict.value) == ("ConfigMap edge/options", "data.keep-alive", "10m")
    assert verdict.severity is Severity.ERROR
    assert verdict.reason is VerdictReason.INVALID_FIELD
    assert verdict.message.endswith("The last good value stays in force: 10.")
    again = parsed(after, keep_alive="never")  # good enough to survive several mistakes
    assert again.options.proxy is not None
    assert again.options.proxy.keepalive_timeout_s == 10


def test_after_a_restart_a_bad_value_means_the_default() -> None:
    result = parsed(keep_alive="10m")
    assert result.options.proxy is None
    assert only(result).message.endswith("The default is in force: 75.")


def test_an_option_taken_back_is_the_default_again() -> None:
    result = parsed(parsed(keep_alive="10"))
    assert result.options.proxy is None
    assert parsed(result, keep_alive="bad").options.proxy is None


def test_bad_entries_of_a_list_are_left_out() -> None:
    result = parsed(hide_headers="X-A, b@d ,X-B")
    assert result.options.proxy is not None
    assert result.options.proxy.headers.hide == ("x-a", "x-b")
    assert "b@d" in only(result).message


@pytest.mark.parametrize(
    ("key", "good", "bad", "both"),
    [
        ("block_cidrs", "192.0.2.0/24", "198.51.100.7,10/33", ("198.51.100.7/32", "192.0.2.0/24")),
        ("block_user_agents", "~*bot", "curl,~(?=x)", ("curl", "~*bot")),
        ("block_referers", "~*spam", "~[,~*ham", ("~*ham", "~*spam")),
    ],
)
def test_a_list_of_who_is_blocked_never_shrinks_by_a_mistake(
    key: str, good: str, bad: str, both: tuple[str, ...]
) -> None:
    after = parsed(parsed(**{key: good}), **{key: bad})
    assert after.options.proxy is not None
    blocks = after.options.proxy.blocks
    assert both in (blocks.networks, blocks.user_agents, blocks.referers)
    assert "so is the list before it" in only(after).message


def test_an_access_rule_never_fails_open() -> None:
    before = parsed(whitelist_source_range="192.0.2.0/24", global_auth_url="http://auth.example/")
    after = parsed(before, whitelist_source_range="192.0.2", global_auth_url="nonsense")
    assert after.options.access == before.options.access
    restarted = parsed(whitelist_source_range="192.0.2", global_auth_url="nonsense")
    # Whoever reads these closes the routes: test_option_effects.py
    assert restarted.options.access.allow_source_range == "192.0.2"
    assert restarted.options.access.global_auth.url == "nonsense"
    assert all("are closed (503)" in v.message for v in restarted.verdicts)
    assert parsed(restarted, global_auth_url="worse").options.access.global_auth.url == "worse"  # never was good


def test_an_unknown_option_gets_a_suggestion() -> None:
    verdict = only(parsed(proxy_body_sise="8m"))
    assert verdict.severity is Severity.WARNING
    assert verdict.message.endswith("Did you mean proxy-body-size?")


def test_many_unknown_options_cost_no_time() -> None:
    assert len(parsed(**{f"proxy_body_siz{i}": "1" for i in range(5000)}).verdicts) == 5000


def test_header_limits_go_together() -> None:
    def limits(**data: str) -> tuple[int, int, int]:
        proxy = parsed(**data).options.proxy or ProxySettings()
        return proxy.request_line_limit_bytes, proxy.header_line_limit_bytes, proxy.header_total_limit_bytes

    assert limits() == limits(client_header_buffer_size="1k") == (8192, 8192, 32768)
    assert limits(large_client_header_buffers="8 16k") == (16384, 16384, 131072)
    assert limits(client_header_buffer_size="64k") == (65536, 65536, 65536)
    assert limits(large_client_header_buffers="2 4k", client_header_buffer_size="16k") == (16384, 16384, 16384)


def test_a_header_timeout_bounds_handshakes_too() -> None:
    proxy = parsed(client_header_timeout="5").options.proxy
    assert proxy is not None
    assert (proxy.client_header_timeout_s, proxy.tls.handshake_timeout_s) == (5, 5)


def test_non_idempotent_requests_are_retried_where_anything_is() -> None:
    retried = parsed(retry_non_idempotent="true").options.traffic.retry_on
    assert retried == (RetryOn.ERROR, RetryOn.TIMEOUT, RetryOn.NON_IDEMPOTENT)
    assert parsed(retry_non_idempotent="true", proxy_next_upstream="off").options.traffic.retry_on == ()


def test_variables_without_value_are_named() -> None:
    result = parsed(log_format_upstream="$status $connection $pipe")
    assert result.options.proxy is not None
    assert result.options.proxy.log.format == "$status $connection $pipe"
    assert only(result).severity is Severity.WARNING
    assert "$connection, $pipe" in only(result).message


@pytest.mark.parametrize("bad", ["nonsense", "HIGH:!ALL", "+HIGH", "a;b"])
def test_ciphers_of_which_openssl_knows_none_are_not_used(bad: str) -> None:
    """Every handshake would fail."""
    result = parsed(parsed(ssl_ciphers="ECDHE-RSA-AES128-GCM-SHA256"), ssl_ciphers=bad)
    assert result.options.proxy is not None
    assert result.options.proxy.tls.ciphers == "ECDHE-RSA-AES128-GCM-SHA256"
    assert only(result).field == "data.ssl-ciphers"


@pytest.mark.parametrize("bad", ["$nothing", "$", "${status", "a $status$", "$sent_http_"])
def test_a_log_format_with_an_unknown_variable_is_not_used(bad: str) -> None:
    result = parsed(parsed(log_format_upstream="$status"), log_format_upstream=bad)
    assert result.options.proxy is not None
    assert result.options.proxy.log.format == "$status"
    assert only(result).field == "data.log-format-upstream"


# ---- header fields in ConfigMaps of their own -----------------------------------------------------------------------


def with_fields(data: dict[str, str] | None, **more: str) -> ParsedOptions:
    other = None if data is None else config_map(data, "fields", "elsewhere")

    def find(ref: ObjectRef) -> KubernetesObject | None:
        return other if ref == ObjectRef(Kind.CONFIG_MAP, "elsewhere", "fields") else None

    return parse_options(options(**more), ProxySettings(), {}, find)


def test_fields_come_from_the_config_map_that_is_named() -> None:
    result = with_fields({"X-B": "2", "X-A": "$remote_addr"}, add_headers="elsewhere/fields")
    assert result.options.proxy is not None
    assert result.options.proxy.headers.to_clients == (("X-A", "$remote_addr"), ("X-B", "2"))
    assert result.references == {ObjectRef(Kind.CONFIG_MAP, "elsewhere", "fields")}
    assert not result.verdicts


@pytest.mark.parametrize(
    ("name", "value"),
    [("Content-Length", "3"), ("b@d name", "x"), ("X-A", "a\r\nX-Evil: 1"), ("X-A", "$nothing"), ("Host", "x")],
)
def test_a_field_that_cannot_be_sent_costs_only_itself(name: str, value: str) -> None:
    result = with_fields({name: value, "X-Good": "1"}, proxy_set_headers="elsewhere/fields")
    assert result.options.proxy is not None
    assert result.options.proxy.headers.to_endpoints == (("X-Good", "1"),)
    verdict = only(result)
    assert verdict.object == "ConfigMap elsewhere/fields"
    assert verdict.field.startswith("data.")


def test_a_missing_config_map_of_fields_is_waited_for() -> None:
    result = with_fields(None, add_headers="elsewhere/fields")
    assert result.references == {ObjectRef(Kind.CONFIG_MAP, "elsewhere", "fields")}
    assert "there is no ConfigMap elsewhere/fields" in only(result).message


# ---- compiled -------------------------------------------------------------------------------------------------------


def test_settings_travel_in_the_table_and_change_its_id() -> None:
    compiler = Compiler(SETTINGS)
    plain = compiler.compile(state(None), None).table
    changed = compiler.compile(state(options(keep_alive="10")), CHANGED).table
    assert plain.settings is None
    assert changed.settings == ProxySettings(keepalive_timeout_s=10)
    assert changed.id != plain.id
    delta = diff_tables(plain, changed)
    assert (delta.settings_changed, delta.hosts, delta.upstreams) == (True, {}, {})
    assert compiler.compile(state(options()), CHANGED).table.id == plain.id
    assert Compiler(SETTINGS).compile(state(options(keep_alive="10")), None).table.id == changed.id


def test_options_of_routes_reach_the_ingresses_that_exist() -> None:
    compiler = Compiler(SETTINGS)
    found = state_of([ingress("i", rule("a")), service(), slice_of()])
    compiler.compile(found, None)
    new = dataclasses.replace(found, config_maps={NAME: options(proxy_read_timeout="9")})
    (route,) = compiler.compile(new, CHANGED).table.hosts["a"].routes  # type: ignore[index]
    assert route.policy.read_timeout_s == 9
    (route,) = compiler.compile(found, CHANGED).table.hosts["a"].routes  # type: ignore[index]
    assert route.policy.read_timeout_s == 60


def test_options_of_the_proxy_compile_no_ingress_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(SETTINGS)
    found = state_of([ingress("i", rule("a")), service(), slice_of()])
    before = compiler.compile(found, None).table
    monkeypatch.setattr("ingress.translate.compiler.build_fragment", None)
    new = dataclasses.replace(found, config_maps={NAME: options(keep_alive="9")})
    after = compiler.compile(new, CHANGED)
    assert after.table.hosts is before.hosts
    assert not after.verdicts


def test_the_compiler_remembers_good_values_even_through_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(SETTINGS)
    compiler.compile(state(options(keep_alive="10")), None)
    with monkeypatch.context() as patch:
        patch.setattr("ingress.translate.compiler._Memory._publish", None)
        with pytest.raises(TypeError):
            compiler.compile(state(options(keep_alive="11")), CHANGED)
    built = compiler.compile(state(options(keep_alive="x")), CHANGED)
    assert built.table.settings == ProxySettings(keepalive_timeout_s=11)


def test_references_of_options_are_watched_and_their_changes_seen() -> None:
    compiler = Compiler(SETTINGS)
    naming = options(add_headers="edge/fields")
    ref = ObjectRef(Kind.CONFIG_MAP, "edge", "fields")
    assert compiler.compile(state(naming), None).references == {ref}
    built = compiler.compile(state(naming, config_map({"X-A": "1"}, "fields")), frozenset((ref,)))
    assert built.table.settings is not None
    assert built.table.settings.headers.to_clients == (("X-A", "1"),)
    assert not built.verdicts
    gone = compiler.compile(state(naming), frozenset((ref,)))  # the fields stay until somebody decides otherwise
    assert gone.table.settings == built.table.settings
    assert len(gone.verdicts) == 1
    assert compiler.compile(state(options()), CHANGED).references == frozenset()


def test_a_missing_config_map_has_no_options() -> None:
    compiler = Compiler(SETTINGS)
    assert compiler.compile(state(None), None).verdicts == ()
    assert len(compiler.compile(state(options(use_geoip2="true")), CHANGED).verdicts) == 1
    assert compiler.compile(state(None), CHANGED).verdicts == ()


def test_other_config_maps_are_not_options() -> None:
    assert Compiler(TranslateSettings()).compile(state(options(keep_alive="no")), None).verdicts == ()


def test_no_text_makes_it_raise() -> None:
    rng = random.Random(5)
    alphabet = "a0 ,~$*:/[(\\\"'\r\n\0é1kmsTLSv.-"
    for _ in range(300):
        data: dict[str, Any] = {
            key.name: "".join(rng.choice(alphabet) for _ in range(rng.randrange(8))) for key in KEYS
        }
        result = parse_options(config_map(data), ProxySettings())
        assert all(v.object == "ConfigMap edge/options" and v.field.startswith("data.") for v in result.verdicts)
