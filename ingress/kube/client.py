"""The API server over HTTP. The only module that imports `kubernetes_asyncio`, for what it does best: finding and refreshing credentials.

Requests are sent by an aiohttp session made from its `Configuration`, because answers are wanted as bytes: its model classes cost milliseconds an object.
It is imported when a client is made, since that takes half a second and 40 MB, which a controller without a cluster must not pay.
"""

import asyncio
import logging
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ingress import __version__
from ingress.config import KubeSettings
from ingress.errors import ConfigError, SourceError
from ingress.kube.api import JSON, Unavailable
from ingress.kube.faults import fault_of_answer, printable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
RELOAD_INTERVAL_S = 5.0  # credentials that are refused for good must not start an exec plugin at every request
READ_BUFFER_BYTES = 1 << 20

# A peer that vanished without a word is noticed after 15 + 3 x 5 seconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}

Load = Callable[[Any], Awaitable[None]]
"""Fills a kubernetes_asyncio `Configuration`: at the start, and again when credentials were refused."""

_log = logging.getLogger(__name__)


class KubeClient:
    """Implements `api.Api`, and `reflector.WatchApi`. Make it with `connect`; `close` it at the end."""

    def __init__(
        self,
        configuration: Any,
        load: Load,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`configuration`: filled by `load` already. Raise ConfigError if its certificates can't be used."""
        self.server: str = configuration.host.rstrip("/")
        self._configuration = configuration
        self._load = load
        self._clock = clock
        self._reloading = asyncio.Lock()
        self._reloaded_at = -RELOAD_INTERVAL_S
        self._ssl = _ssl_context(configuration) if self.server.startswith("https://") else None
        self._proxy = configuration.proxy or _proxy_of(self.server, environ)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # every watch holds a connection
                ssl=self._ssl if self._ssl is not None else True,
                socket_factory=_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
            # compressing lists costs both sides more than the bytes it saves between a Pod and its API server
            headers={"User-Agent": f"aioingress/{__version__}", "Accept": JSON, "Accept-Encoding": "identity"},
        )

    @classmethod
    async def connect(
        cls,
        settings: KubeSettings,
        *,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> "KubeClient":
        """Find the credentials; nothing is sent yet, unless the kubeconfig wants it (OIDC). Raise ConfigError."""
        from kubernetes_asyncio.client import Configuration

        load, where = _loader(settings, environ, service_account)
        configuration = Configuration()
        try:
            await load(configuration)
        except Exception as error:  # its loaders raise whatever a strange file leads to
            strange = isinstance(error, TypeError | AttributeError | KeyError | AssertionError)
            raise ConfigError(f"{where}: {'it is no kubeconfig' if strange else _first_line(error)}") from error
        server = str(configuration.host or "")
        host = urlsplit(server)
        if host.scheme not in ("http", "https") or not host.hostname:
            raise ConfigError(f"{where}: the server must be an http:// or https:// URL, not {printable(server)!r}")
        try:
            client = cls(configuration, load, environ=environ)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"{where}: a certificate or key can't be used: {_first_line(error)}") from error
        _log.info("API server %s, credentials from %s", client.server, where)
        return client

    async def close(self) -> None:
        await self._session.close()

    # ---- api.Api --------------------------------------------------------------------------------------------------

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        return await self._plain("GET", path, query, None, None)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        return await self._plain(method, path, query, data, content_type if data is not None else None)

    async def watch(self, path: str, query: Mapping[str, str], *, idle_timeout_s: float) -> AsyncIterator[bytes]:
        async with aclosing(self.batches(path, query, idle_timeout_s=idle_timeout_s)) as batches:
            async for lines in batches:
                for line in lines:
                    yield line

    async def batches(
        self, path: str, query: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncGenerator[Sequence[bytes], None]:
        """As `watch`, but all lines that are there at once; first none, as soon as the server has accepted the watch."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout_s)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                response = await self._request("GET", path, query, None, None, limits)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error
        try:
            yield ()
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
            if rest.strip():
                raise Unavailable("the watch was cut in the middle of a line")
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error
        finally:
            response.close()

    # ---- requests -------------------------------------------------------------------------------------------------

    async def _plain(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, content_type: str | None
    ) -> bytes:
        limits = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with await self._request(method, path, query, data, content_type, limits) as response:
                return await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        content_type: str | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """The head of a good answer. Anything else is raised: SourceErrors, and what aiohttp raises."""
        used = await self._authorization()
        try:
            response = await self._once(method, path, query, data, content_type, limits, used)
        except aiohttp.ClientConnectorCertificateError:
            # the cluster's certificate authority was replaced
            if not await self._reload(used):
                raise
            response = await self._once(method, path, query, data, content_type, limits, await self._authorization())
        if response.status == 401 and await self._reload(used):
            response.close()
            response = await self._once(method, path, query, data, content_type, limits, await self._authorization())
        if 200 <= response.status < 300:
            return response
        try:
            body = await response.read()
        finally:
            response.close()
        raise fault_of_answer(response.status, body, response.headers.get("Retry-After", ""))

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        content_type: str | None,
        limits: aiohttp.ClientTimeout,
        authorization: str,
    ) -> aiohttp.ClientResponse:
        headers = {"Authorization": authorization} if authorization else {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        return await self._session.request(
            method,
            self.server + path,
            params=query,
            data=data,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_headers=self._configuration.proxy_headers,
            server_hostname=self._configuration.tls_server_name,
        )

    # ---- credentials ----------------------------------------------------------------------------------------------

    async def _authorization(self) -> str:
        """The Authorization header. The refresh hook reads a service account's token again once a minute."""
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:  # the hook's; the token that was read before may still do
            _log.warning("can't read the token again: %s", _first_line(error))
            token = self._configuration.api_key.get("BearerToken")
        return (token or "").strip()  # a token file may end with a newline

    async def _reload(self, used: str) -> bool:
        """Credentials `used` were refused: read everything again. Whether another attempt makes sense."""
        async with self._reloading:
            if self._configuration.api_key.get("BearerToken", "").strip() != used:
                return True  # by another request, meanwhile
            if self._clock() - self._reloaded_at < RELOAD_INTERVAL_S:
                return False
            self._reloaded_at = self._clock()
            try:
                await self._load(self._configuration)
                if self._ssl is not None:
                    _load_certificates(self._ssl, self._configuration)
            except Exception as error:
                _log.warning("can't read the credentials again: %s", _first_line(error))
                return False
            return True

    def _unavailable(self, error: Exception) -> SourceError:
        return Unavailable(_words(error, urlsplit(self.server).netloc))


# ---- where credentials come from ----------------------------------------------------------------------------------


def _loader(settings: KubeSettings, environ: Mapping[str, str], service_account: Path) -> tuple[Load, str]:
    """How to fill a Configuration, and the words for where that is from."""
    token = service_account / "token"
    in_pod = environ.get("KUBERNETES_SERVICE_HOST") and token.exists()
    if settings.kubeconfig is None and settings.context is None and in_pod:

        async def from_service_account(configuration: Any) -> None:
            from kubernetes_asyncio import config

            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration,
                token_filename=str(token),
                cert_filename=str(service_account / "ca.crt"),
                environ=environ,
            )

        return from_service_account, f"the service account in {service_account}"

    paths, where = _kubeconfig_paths(settings, environ)

    async def from_kubeconfig(configuration: Any) -> None:
        from kubernetes_asyncio import config

        await config.load_kube_config(config_file=paths, context=settings.context, client_configuration=configuration)

    return from_kubeconfig, f"{where}, --context {settings.context}" if settings.context else where


def _kubeconfig_paths(settings: KubeSettings, environ: Mapping[str, str]) -> tuple[str, str]:
    """A file, or several separated as in $PATH, at least one of which exists; and what to call it."""
    if settings.kubeconfig is not None:
        if not settings.kubeconfig.exists():
            raise ConfigError(f"--kubeconfig {settings.kubeconfig}: there is no such file")
        return str(settings.kubeconfig), f"--kubeconfig {settings.kubeconfig}"
    listed = environ.get("KUBECONFIG", "")
    if listed:
        if not any(Path(path).expanduser().exists() for path in listed.split(os.pathsep) if path):
            raise ConfigError(f"$KUBECONFIG {printable(listed)}: there is no such file")
        return listed, f"$KUBECONFIG {printable(listed)}"
    home = Path(environ.get("HOME") or Path.home()) / ".kube" / "config"
    if not home.exists():
        raise ConfigError(
            f"no cluster to connect to: this is no Pod with a service account, $KUBECONFIG is not set and there is no {home}; "
            "name a file with --kubeconfig, or run without a cluster from --manifests"
        )
    return str(home), str(home)


def _ssl_context(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Python 3.13 made X509_STRICT the default, which refuses certificate authorities that clusters really have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _load_certificates(context: ssl.SSLContext, configuration: Any) -> None:
    """As they are on disk now, for connections made from now on."""
    if configuration.ssl_ca_cert:
        context.load_verify_locations(configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)


def _proxy_of(server: str, environ: Mapping[str, str]) -> str | None:
    """HTTPS_PROXY and NO_PROXY, as every Kubernetes client takes them. Not by aiohttp's `trust_env`, which would read ~/.netrc too."""
    url = urlsplit(server)
    proxies = {
        name.lower().removesuffix("_proxy"): value
        for name, value in environ.items()
        if name.lower().endswith("_proxy") and value
    }
    proxy = proxies.get(url.scheme)
    if proxy is None or urllib.request.proxy_bypass_environment(url.netloc, proxies):  # type: ignore[attr-defined]
        return None
    return proxy


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)  # not on every system
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


# ---- words --------------------------------------------------------------------------------------------------------


def _words(error: Exception, server: str) -> str:
    """Why there was no answer, as one short line."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {server} is not trusted: {_first_line(error.certificate_error)}"
        case aiohttp.ClientConnectorError(os_error=cause):
            known = cause.errno is not None and cause.errno > 0  # those of name look-ups are negative
            reason = os.strerror(cause.errno or 0) if known else cause.strerror or _first_line(cause)
            return f"can't connect to {server}: {reason}"
        case aiohttp.ConnectionTimeoutError():
            return f"can't connect to {server}: no answer within {CONNECT_TIMEOUT_S:.0f} s"
        case TimeoutError():
            return f"no answer from {server} in time"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionResetError():
            return f"the connection to {server} was cut"
        case _:
            return f"{server}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return printable(str(error).strip().partition("\n")[0]) or type(error).__name__
