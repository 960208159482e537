"""What a Pod's specification means for the processes behind it: pure functions of the object."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_NODE_RESOURCES = {"cpu": "2", "memory": "4Gi"}  # what a container without limits may use


class Unresolvable(Exception):
    """A ConfigMap, Secret or key that isn't there yet: the container can't start now."""


# (kind, name) -> text by key; None when there is no such object. kind: configmaps or secrets
Texts = Mapping[tuple[str, str], Mapping[str, str] | None]
_FROM = (("configMapRef", "configmaps"), ("secretRef", "secrets"))
_KEY_FROM = (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets"))


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` by its value, `$$` by `$`; unknown names stay as they are."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


def field_value(pod: Json, path: str) -> str:
    """A fieldRef; empty for a field that isn't set."""
    match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if match:
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        items = pod["metadata"].get(path.removeprefix("metadata."), {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(items.items()))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        return ",".join(item.get("ip", "") for item in value)
    return "" if value is None else str(value)


def quantity(text: str) -> float:
    """`500m`, `64Mi`: a number of the base unit."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"not a quantity: {text!r}")
    return float(match[1]) * _SUFFIXES[match[2]]


def resource_value(container: Json, reference: Json) -> str:
    """A resourceFieldRef, rounded up to whole divisors. A limit that isn't set is what the node has."""
    kind, _, name = reference["resource"].partition(".")
    fallback = _NODE_RESOURCES.get(name, "0") if kind == "limits" else "0"
    amount = container.get("resources", {}).get(kind, {}).get(name, fallback)
    divisor = quantity(str(reference.get("divisor") or "1")) or 1.0
    return str(math.ceil(quantity(str(amount)) / divisor))


def references(container: Json) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that `environment` needs: (kind, name)."""
    listed = [(source, _FROM) for source in container.get("envFrom", ())]
    listed += [(item.get("valueFrom", {}), _KEY_FROM) for item in container.get("env", ())]
    return {(kind, source[field]["name"]) for source, kinds in listed for field, kind in kinds if field in source}


def environment(pod: Json, container: Json, texts: Texts) -> dict[str, str]:
    """The variables that the specification sets, in its order. Raises Unresolvable."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for field, kind in _FROM:
            if field in source:
                found = texts.get((kind, source[field]["name"]))
                if found is None and not source[field].get("optional"):
                    raise Unresolvable(f"{kind} {source[field]['name']}")
                prefix = source.get("prefix", "")
                variables.update({f"{prefix}{key}": value for key, value in (found or {}).items()})
    for item in container.get("env", ()):
        if "valueFrom" not in item:
            variables[item["name"]] = expand(item.get("value", ""), variables)
            continue
        value = _from_source(pod, container, item["valueFrom"], texts)
        if value is not None:
            variables[item["name"]] = value
    return variables


def _from_source(pod: Json, container: Json, source: Json, texts: Texts) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(container, source["resourceFieldRef"])
    for field, kind in _KEY_FROM:
        if field in source:
            reference = source[field]
            value = (texts.get((kind, reference["name"])) or {}).get(reference["key"])
            if value is None and not reference.get("optional"):
                raise Unresolvable(f"{kind} {reference['name']}: {reference['key']}")
            return value
    return None


def port_number(container: Json, port: int | str) -> int:
    """Of a probe or hook: the number, or the container's port of that name. Raises ValueError."""
    if isinstance(port, int):
        return port
    for candidate in container.get("ports", ()):
        if candidate.get("name") == port:
            return int(candidate["containerPort"])
    return int(port)


def repository(image: str) -> str:
    """The last part of the image's name, without tag and digest: `registry:5000/team/app:1@sha256:..` -> `app`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


# ---- our own image ------------------------------------------------------------------------------------------------

_ANY_HOST = re.compile(r"(?<![0-9.])0\.0\.0\.0(?![0-9.])|\[::\]|(?:(?<==)|(?<=^))(?=:[0-9]+$)")
_LISTENERS = {"http": 8080, "https": 8443, "admin": 10254}


def on_address(argument: str, address: str) -> str:
    """`0.0.0.0:8080`, `[::]:8080`, `--flag=:8080`: on the Pod's address, since all Pods share one network namespace."""
    return _ANY_HOST.sub(address, argument)


def listener_environment(arguments: Sequence[str], variables: Mapping[str, str], address: str) -> dict[str, str]:
    """What makes the listeners that neither flags nor variables set listen on the Pod's address only."""
    found = {}
    for name, port in _LISTENERS.items():
        flag, variable = f"--{name}-address", f"INGRESS_{name.upper()}_ADDRESS"
        if variable not in variables and not any(item.partition("=")[0] == flag for item in arguments):
            found[variable] = f"{address}:{port}"
    return found


# ---- probes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """Times in seconds, thresholds in probes in a row."""

    action: Json  # httpGet, tcpSocket or exec
    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int


def probe_of(container: Json, name: str) -> ProbeSpec | None:
    """`name`: readiness, liveness or startup."""
    probe = container.get(f"{name}Probe")
    if probe is None:
        return None
    return ProbeSpec(
        probe,
        float(probe.get("initialDelaySeconds", 0)),
        float(probe.get("periodSeconds", 10)),
        float(probe.get("timeoutSeconds", 1)),
        int(probe.get("successThreshold", 1)),
        int(probe.get("failureThreshold", 3)),
    )


# ---- where a Pod may run ------------------------------------------------------------------------------------------


def suits(pod: Json, node: str, labels: Mapping[str, str]) -> bool:
    """nodeSelector and the required node affinity; what the scheduler only prefers doesn't count."""
    spec = pod["spec"]
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms")
    return required is None or any(
        all(_holds(item, labels) for item in term.get("matchExpressions", ()))
        and all(_holds(item, {"metadata.name": node}) for item in term.get("matchFields", ()))
        for term in required
    )


def _holds(requirement: Json, values: Mapping[str, str]) -> bool:
    value, listed = values.get(requirement["key"]), requirement.get("values", ())
    match requirement["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False
