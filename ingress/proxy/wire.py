"""How the endpoints of an upstream are spoken to: settled once an upstream, and a part of what tells pools apart."""

from ingress.proxy.http1 import RequestHead, request_head_writer
from ingress.proxy.upstream_tls import EndpointTLS, endpoint_tls
from ingress.routing.table import Upstream, UpstreamProtocol


class Wire:
    """How the endpoints of an upstream are spoken to. Part of a pool's identity: what differs in it shares no connections.

    Raises ValueError for a TLS policy that can't be followed.
    """

    __slots__ = ("head", "tls")

    def __init__(self, upstream: Upstream) -> None:
        secure = upstream.protocol is UpstreamProtocol.HTTPS
        if secure and upstream.tls is None:
            raise ValueError("it says nothing of TLS")
        self.tls: EndpointTLS | None = endpoint_tls(upstream.tls) if secure and upstream.tls is not None else None
        self.head: RequestHead = request_head_writer(upstream.http_version, upstream.connection_header)
