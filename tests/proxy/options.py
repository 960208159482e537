"""Options for a `Proxy` of a test, as the text of a ConfigMap, changed while it runs."""

from collections.abc import Callable, Mapping

import msgspec

from ingress.model import ConfigMap, KubernetesObject, ObjectRef
from ingress.model.decode import decode_object
from ingress.routing.table import Endpoint, RoutingTable
from ingress.translate.options.parse import ParsedOptions, parse_options
from tests.proxy.support import Backend, Proxy, table


def config_map(data: Mapping[str, str], name: str = "options") -> ConfigMap:
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "edge", "name": name},
        "data": dict(data),
    }
    found = decode_object(document, "")
    assert isinstance(found, ConfigMap)
    return found


class Options:
    """`set` puts a table in force that is the same but for the options. `others`: ConfigMaps that options may name (`edge/NAME`);
    `wrap`: what is done to each table first.
    """

    def __init__(
        self,
        proxy: Proxy,
        *endpoints: Backend | Endpoint,
        wrap: Callable[[RoutingTable], RoutingTable] = lambda table: table,
        **others: Mapping[str, str],
    ) -> None:
        self._wrap = wrap
        self._proxy = proxy
        self._endpoints = endpoints
        self._others = {name: config_map(data, name) for name, data in others.items()}
        self._number = 0
        self.parsed = ParsedOptions()

    def _find(self, ref: ObjectRef) -> KubernetesObject | None:
        return self._others.get(ref.name) if ref.namespace == "edge" else None

    def set(self, data: Mapping[str, str] | None = None, **more: str) -> RoutingTable:
        """Names with `_` for `-`."""
        text = {name.replace("_", "-"): value for name, value in more.items()} | dict(data or {})
        self.parsed = parse_options(config_map(text), self._proxy.settings, self.parsed.good, self._find)
        self._number += 1
        options = self.parsed.options
        plain = table(self._endpoints, policy=options.traffic, id=f"options-{self._number}")
        made = self._wrap(msgspec.structs.replace(plain, settings=options.proxy))
        self._proxy.plane.swap(made)
        return made
