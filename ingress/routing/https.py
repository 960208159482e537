"""What hosts with TLS ask of their requests, as policies of three features (`Feature.policy`): plain data, like everything in a table.

They are decided where a host is put together, from several Ingresses and its certificate, and acted upon by the middleware of the same name.
"""

import enum

import msgspec

TLS_REDIRECT = "tls-redirect"
HSTS = "hsts"
CLIENT_CERTIFICATE = "client-certificate"
NO_RULE = ""  # only `closed_for` says anything


class RedirectWhen(enum.StrEnum):
    NEVER = "never"
    CERTIFICATE = "certificate"  # one is configured for the host (ssl-redirect)
    ALWAYS = "always"  # force-ssl-redirect


class TLSRedirect(msgspec.Struct, frozen=True):
    """From plain HTTP to HTTPS."""

    when: RedirectWhen = RedirectWhen.CERTIFICATE
    status: int = 308
    keep_trailing_slash: bool = False  # otherwise one at the end of the target is cut, as in ingress-nginx
    port: int = 0  # written into the Location; 0: none
    exempt: tuple[str, ...] = ()  # prefixes of paths of rules that are served over plain HTTP too


class StrictTransport(msgspec.Struct, frozen=True):
    """`value` of Strict-Transport-Security, on responses over TLS."""

    value: str


class ClientCertificate(msgspec.Struct, frozen=True):
    """What becomes of a request by the certificate that its connection came with. `TLSHost.client_auth` says who is asked for one."""

    verify: str = "on"  # on | off | optional | optional_no_ca; NO_RULE
    forward: bool = False  # the certificate itself goes to the endpoint too
    match_dn: str = ""  # RE2, searched for in the subject's distinguished name
    error_page: str = ""  # URL to redirect to in place of a 400
    closed: bool = False  # the rule can't be kept: 403 for every request
    closed_for: tuple[
        str, ...
    ] = ()  # `namespace/name` of Ingresses whose own rule for the host lost: 403 on their paths
