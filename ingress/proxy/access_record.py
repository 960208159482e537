"""What the access log says about an exchange that is over."""

import time

from ingress.accesslog import AccessRecord
from ingress.exchange import Exchange
from ingress.proxy.snapshot import LinkedRoute
from ingress.routing.table import Route


def access_record(
    exchange: Exchange, route: LinkedRoute | None, duration_s: float, extra: tuple[bytes | None, ...]
) -> AccessRecord:
    """`extra`: the values of the format's own variables. An exchange that is answered by an endpoint has it still."""
    attempts = exchange.log or []
    if exchange.endpoint is not None:
        attempts.append((exchange.endpoint.key, exchange.status))
    rule = None if route is None else route.route
    return AccessRecord(
        time_s=time.time(),
        remote_addr=exchange.client_address,
        method=exchange.method if exchange.intercepted is None else exchange.intercepted.method,
        target=exchange.target,
        version=b"HTTP/1.0" if exchange.version == 10 else b"HTTP/1.1" if exchange.version == 11 else b"HTTP/2.0",
        host=exchange.authority,
        status=exchange.status,
        body_bytes_sent=exchange.response_bytes,
        referer=exchange.header(b"referer") or b"",
        user_agent=exchange.header(b"user-agent") or b"",
        request_length=exchange.head_length() + exchange.body_bytes,
        request_time_s=duration_s,
        namespace=rule.namespace if rule is not None else "",
        ingress=rule.ingress if rule is not None else "",
        service=rule.service if rule is not None else "",
        port=rule.port if rule is not None else "",
        upstream_addr=", ".join(key for key, _ in attempts),
        upstream_response_length=exchange.response_bytes if attempts else 0,
        upstream_response_time_s=duration_s if attempts else 0.0,
        upstream_status=", ".join(str(status) for _, status in attempts),
        request_id=exchange.request_id,
        remote_user=exchange.remote_user,
        extra=extra,
        main_upstream=_name_of(route.main.route) if route is not None and route.main is not None else "",
    )


def _name_of(route: Route) -> str:
    return f"{route.namespace}-{route.service}-{route.port}"
