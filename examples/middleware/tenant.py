"""One application, many tenants: the tenant is the first label of the host, and the endpoint gets it as a header it can trust.

    aioingress.io/middleware: tenant
    aioingress.io/middleware.tenant: "acme globex initech"      # all there are

`https://acme.shop.example.com/` reaches the endpoint with `X-Tenant: acme`. A header of that name that the client sent is dropped.
"""

from ingress.middleware.api import Middleware, Reply, Request


class Tenant(Middleware):
    name = "tenant"

    def __init__(self, config: str) -> None:
        super().__init__(config)
        self._tenants = frozenset(config.lower().split())
        if not self._tenants:
            raise ValueError("the list of tenants is empty")

    def on_request(self, request: Request) -> Reply | None:
        tenant = request.host.partition(".")[0]
        if tenant not in self._tenants:
            return Reply(404, "no such tenant")
        request.headers["X-Tenant"] = tenant
        return None
