"""The access log by options: what is logged, and how, changed while it runs."""

import os
from typing import Any

import msgspec
import pytest

from ingress.accesslog import AccessLog, AccessRecord
from ingress.logtemplate import TemplateFormat
from ingress.routing.table import CanaryRule, RoutingTable, TrafficPolicy
from ingress.translate.options.keys import BY_NAME
from tests.proxy.options import Options
from tests.proxy.support import Proxy, RecordedLog, answer, one_backend, table
from tests.proxy.test_canary import split


class Written(RecordedLog):
    """Keeps records with the format that was in force."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def use(self, format: Any) -> None:
        self._format = format

    def write(self, record: AccessRecord) -> None:
        super().write(record)
        (line,) = self._format((record,))
        self.lines.append(line.decode("latin-1").rstrip("\n"))


def logging(proxy: Proxy) -> Written:
    log = Written()
    proxy.log = proxy.plane._access_log = proxy.plane.forwarder._log_sink = proxy.plane.forwarder._access_log = log
    return log


async def test_switched_live() -> None:
    async with one_backend() as (proxy, backend):
        log, options, client = logging(proxy), Options(proxy, backend), await proxy.client()
        for number, off in enumerate(("disable-access-log", "disable-http-access-log"), 1):
            options.set({off: "true"})
            await client.get()
            assert len(log.lines) == number - 1
            options.set()
            await client.get()
            assert len(log.lines) == number


async def test_switched_off_by_flag_it_stays_off() -> None:
    async with one_backend(access_log=False) as (proxy, backend):
        log, options = logging(proxy), Options(proxy, backend)
        options.set(disable_access_log="false", log_format_upstream="$status")
        await (await proxy.client()).get()
        assert not log.lines


async def test_format_changed_live() -> None:
    async with one_backend() as (proxy, backend):
        log, options, client = logging(proxy), Options(proxy, backend), await proxy.client()
        await client.get("/a")
        options.set(log_format_upstream="$request_method ${request_uri} $status $http_x_a|$arg_q|$cookie_c [$host]")
        await client.get("/b?q=1", "A.example", "X-A: one", "X-A: two", "Cookie: c=d")
        options.set(log_format_upstream="$nothing")  # the last good one stays
        await client.get("/c", "a")
        options.set()
        await client.get("/d")
        assert log.lines[1:3] == ["GET /b?q=1 200 one, two|1|d [a.example]", "GET /c 200 -|-|- [a]"]
        assert log.lines[0].startswith("127.0.0.1 - - [")
        assert '"GET /d HTTP/1.1" 200 2' in log.lines[3]


async def test_default_format_as_a_template_is_the_default_format() -> None:
    default = BY_NAME["log-format-upstream"].default
    async with one_backend() as (proxy, backend):
        log, options = logging(proxy), Options(proxy, backend)
        for path in ("/a", "/%00", '/"q\\'):
            options.set()
            client = await proxy.client()
            await client.get(path, "a", "Referer: r", 'User-Agent: "x\\"', "X-Request-ID: i")
            record = log.records[-1]
            options.set(log_format_upstream=default)
            assert log._format((record,)) == [log.lines[-1].encode("latin-1") + b"\n"]


@pytest.mark.parametrize(
    ("escape", "expected"),
    [
        ({}, r'{"a":"Here is \x22it\x22\x09\xE9 \x5C", "b":"-"}'),
        ({"log-format-escape-json": "true"}, '{"a":"Here is \\"it\\"\\t\xe9 \\\\", "b":""}'),
        ({"log-format-escape-none": "true"}, '{"a":"Here is "it"\t\xe9 \\", "b":""}'),
        (
            {"log-format-escape-none": "true", "log-format-escape-json": "true"},
            '{"a":"Here is "it"\t\xe9 \\", "b":""}',
        ),
    ],
)
async def test_escapes(escape: dict[str, str], expected: str) -> None:
    async with one_backend() as (proxy, backend):
        log, options = logging(proxy), Options(proxy, backend)
        options.set({"log-format-upstream": '{"a":"$http_a", "b":"$http_b"}', **escape})
        await (await proxy.client()).get("/", "a", 'A: Here is "it"\t\xe9 \\')
        assert log.lines == [expected]


async def test_escape_of_the_default_format() -> None:
    async with one_backend() as (proxy, backend):
        log, options = logging(proxy), Options(proxy, backend)
        options.set(log_format_escape_json="true")
        await (await proxy.client()).get("/", "a", 'User-Agent: "x"')
        assert r'"\"x\""' in log.lines[0]


async def test_heads_of_responses() -> None:
    script = answer(b"ok", 200, [(b"X-A", b"1"), (b"Content-Type", b"text/plain")])
    async with one_backend(script) as (proxy, backend):
        log = logging(proxy)
        options = Options(proxy, backend, fields={"X-A": "2"})
        options.set(
            add_headers="edge/fields",
            log_format_upstream="$upstream_http_x_a $sent_http_x_a $sent_http_content_type $upstream_header_time",
        )
        client = await proxy.client()
        await client.get()
        await client.get("/%00")
        assert log.lines[0].startswith("1 2 text/plain 0.0")
        assert log.lines[1] == "- 2 text/plain; charset=utf-8 -"


async def test_every_variable_has_a_value_or_a_dash() -> None:
    """No request, and no end of one, makes a line fail."""
    names = (
        "request_uri",
        "host",
        "scheme",
        "server_port",
        "ssl_protocol",
        "namespace",
        "ingress_name",
        "service_name",
    )
    names += ("service_port", "location_path", "server_name", "proxy_upstream_name", "proxy_alternative_upstream_name")
    names += ("request_length", "bytes_sent", "connection", "uri", "args", "is_args", "upstream_addr", "time_iso8601")
    names += ("upstream_status", "upstream_response_time", "upstream_response_length", "content_length", "hostname")
    async with one_backend() as (proxy, backend):
        log, options = logging(proxy), Options(proxy, backend)
        options.set(log_format_upstream="\t".join(f"{name}=${name}" for name in names))
        client = await proxy.client()
        await client.post(b"abc", "/p?a=1")
        await (await proxy.client()).request(b"GET\r\n\r\n")
        found, refused = (dict(pair.split("=", 1) for pair in line.split("\t")) for line in log.lines)
        assert found["uri"] == found["request_uri"].partition("?")[0] == "/p"
        assert (found["args"], found["is_args"], found["content_length"]) == ("a=1", "?", "3")
        assert found["proxy_upstream_name"] == "default-service-0-80"
        assert found["server_port"] == str(proxy.port)
        assert (found["bytes_sent"], found["ssl_protocol"], found["proxy_alternative_upstream_name"]) == ("-", "-", "")
        assert refused["upstream_addr"] == refused["service_name"] == "-"


def test_text_between_variables_is_read_as_nginx_reads_quoted_text() -> None:
    record = AccessRecord(
        0.0, "a", b"GET", b"/", b"HTTP/1.1", b"h", 7, 0, b"", b"", 1, 0.5, "", "", "", "", "", 0, 0.0, "", b"", b""
    )
    (line,) = TemplateFormat(r"\"$status\"\t\\é $request_time")((record,))
    assert line.decode() == '"007"\t\\é 0.500\n'


async def test_a_canary_is_the_alternative_upstream() -> None:
    async with Proxy() as proxy:
        log, main, canary = logging(proxy), await proxy.backend(), await proxy.backend()
        options = Options(proxy, main, wrap=lambda _: split([main], [([canary], CanaryRule(header="X-Canary"))]))
        options.set()
        client = await proxy.client()
        await client.get()
        await client.get("/", "a", "X-Canary: always")
        assert " [default-service-0-80] [] " in log.lines[0]
        assert " [default-service-0-80] [default-canary-0-80] " in log.lines[1]
        template = TemplateFormat("$proxy_upstream_name|$proxy_alternative_upstream_name")
        assert template(log.records) == [
            b"default-service-0-80|\n",
            b"default-service-0-80|default-canary-0-80\n",
        ]


async def test_skipped_urls() -> None:
    async with one_backend() as (proxy, backend):
        log, options, client = logging(proxy), Options(proxy, backend), await proxy.client()
        options.set(skip_access_log_urls="/healthz,~^/static/,/x?q=1")
        options.set(skip_access_log_urls="/healthz,~^/static/,/x?q=1", log_format_upstream="$request_uri")
        for path in ("/healthz", "/HEALTHZ", "/healthz/x", "/static/a", "/x?q=1", "/x?q=2"):
            await client.get(path)
        assert log.lines == ["/healthz/x", "/x?q=2"]


async def test_default_backend() -> None:
    async with Proxy() as proxy:
        log, options, client = logging(proxy), Options(proxy), await proxy.client()
        for text, expected in (("true", 1), ("false", 1), ("", 2)):
            made = options.set(enable_access_log_for_default_backend=text)
            proxy.plane.swap(RoutingTable(f"empty-{text}", settings=made.settings))
            assert (await client.get("/", "nobody")).status == 404
            assert len(log.lines) == expected


async def test_one_route_is_not_logged() -> None:
    async with one_backend() as (proxy, backend):
        log, client = logging(proxy), await proxy.client()
        proxy.plane.swap(table((backend,), policy=TrafficPolicy(access_log=False), id="silent"))
        await client.get()
        assert not log.lines


def test_lines_keep_the_format_of_their_time() -> None:
    """What was logged before a change is written in the format before it, though it is written later."""
    reading, writing = os.pipe()
    log = AccessLog("json", writing)
    record = AccessRecord(
        0.0, "a", b"GET", b"/", b"HTTP/1.1", b"h", 200, 0, b"", b"", 1, 0.5, "", "", "", "", "", 0, 0.0, "", b"", b""
    )
    log.write(record)
    log.use(TemplateFormat("$status $host"))
    log.write(record._replace(extra=(b"h",)))
    log.use(log.default())
    log.write(record)
    assert log.close()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        first, second, third = pipe.read().splitlines()
    assert second == "200 h"
    assert msgspec.json.decode(first) == msgspec.json.decode(third)
