"""The data of the options ConfigMap -> `Options` and verdicts. Never raises for any text.

A value that can't be used leaves the last good one of its option in force (`last`), or the default where there was none: after a restart.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from ingress.config import ProxySettings, TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.model import ConfigMap, Kind, KubernetesObject, ObjectRef
from ingress.model.cluster import NamespacedName
from ingress.routing.table import RetryOn
from ingress.translate.options import values
from ingress.translate.options.fields import header_fields
from ingress.translate.options.keys import BY_NAME, Key, Status
from ingress.translate.options.model import BROTLI_TYPES, DEFAULT_OPTIONS, GZIP_TYPES, CodecOptions, Options
from ingress.translate.report import Report, shown

Objects = Callable[[ObjectRef], KubernetesObject | None]
_SUGGESTIONS = 20  # a ConfigMap with thousands of strange keys must not cost seconds


class Good(NamedTuple):
    """A value that was in force, as written and as understood."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class ParsedOptions:
    """`good` is to be handed in as `last` the next time; `references` are ConfigMaps that options name, existing or not."""

    options: Options = DEFAULT_OPTIONS
    verdicts: tuple[Verdict, ...] = ()
    good: Mapping[str, Good] = field(default_factory=dict)
    references: frozenset[ObjectRef] = frozenset()


NO_OPTIONS = ParsedOptions()


def read_options(
    settings: TranslateSettings,
    config_maps: Mapping[NamespacedName, ConfigMap],
    last: Mapping[str, Good],
    objects: Objects,
) -> ParsedOptions:
    """A ConfigMap that doesn't exist has no options, as in ingress-nginx; the last good values are forgotten with it."""
    found = config_maps.get(settings.config_map) if settings.config_map is not None else None
    if found is None or not found.data:
        return NO_OPTIONS
    return parse_options(found, settings.proxy, last, objects)


def parse_options(
    found: ConfigMap, base: ProxySettings, last: Mapping[str, Good] | None = None, objects: Objects = lambda ref: None
) -> ParsedOptions:
    """`base`: what the process was started with, which the options are laid over."""
    reader = _Reader(found, last or {}, objects)
    for name, text in sorted((found.data or {}).items()):
        reader.read(name, text.strip())
    options = _assemble(reader.values, base)
    verdicts = (*reader.report.verdicts(), *(v for report in reader.other_reports for v in report.verdicts()))
    return ParsedOptions(options, verdicts, reader.good, frozenset(reader.references))


_ALL = Options(proxy=ProxySettings())


def _value_of(options: Any, target: str) -> Any:
    for name in target.split("."):
        options = getattr(options, name)
    return options


class _Reader:
    def __init__(self, found: ConfigMap, last: Mapping[str, Good], objects: Objects) -> None:
        self.report = Report(str(found.ref), found.origin)
        self.other_reports: list[Report] = []
        self.values: dict[str, Any] = {}  # what is in force, by option
        self.good: dict[str, Good] = {}  # of that, what may stay in force another time
        self.references: set[ObjectRef] = set()
        self._last = last
        self._objects = objects
        self._suggestions = _SUGGESTIONS

    def read(self, name: str, text: str) -> None:
        key = BY_NAME.get(name)
        if key is None:
            self._unknown(name, text)
            return
        match key.status:
            case Status.NO_EFFECT:
                return
            case Status.IGNORED:
                self._warn(key, text, f"The option has no effect, in ingress-nginx neither: {key.note}.")
            case Status.REFUSED:
                if text.lower() not in key.harmless and text != key.default:
                    self.report.error(
                        f"data.{name}", VerdictReason.UNSUPPORTED_FIELD, f"The option is not applied: {key.note}.", text
                    )
            case Status.SAME | Status.DIFFERS:
                self._take(key, text)

    def _take(self, key: Key, text: str) -> None:
        default = _value_of(_ALL, key.target) if key.target else None
        if not text and not isinstance(default, (str, tuple)):
            return  # empty: not set
        last = self._last.get(key.name)
        try:
            value = self._fields(key, text) if key.reference else key.parse(text)
        except values.Partly as problem:
            value = problem.usable
            kept = ""
            if key.strict and last is not None:
                value = tuple(dict.fromkeys((*value, *last.value)))
                kept = ", and so is the list before it"
            self._refuse(
                key, text, f"A part of the value is not used: {shown(problem, 300)}. The rest is in force{kept}."
            )
            self._accept(key, text, value)
        except ValueError as problem:
            if last is not None:
                self._accept(key, *last)
                in_force = f"The last good value stays in force: {shown(last.text)}"
            elif key.fails_closed:
                self.values[key.name] = text
                in_force = "The routes that it is about are closed (503), because access rules must not fail open"
            else:
                in_force = (
                    f"The default is in force: {shown(key.default)}" if key.default else "The default is in force"
                )
            self._refuse(key, text, f"The value is not used: {shown(problem, 300)}. {in_force}.")
        else:
            self._accept(key, text, value)
            if key.target == "proxy.log.format" and (silent := values.without_value(text)):
                names = ", ".join(f"${name}" for name in silent[:10])
                self._warn(key, text, f"These variables have no value here, and are logged as -: {names}.")

    def _accept(self, key: Key, text: str, value: Any) -> None:
        self.values[key.name] = value
        self.good[key.name] = Good(text, value)

    def _fields(self, key: Key, text: str) -> tuple[tuple[str, str], ...]:
        """Those of the ConfigMap that `text` names. Raises ValueError."""
        if not text:
            return ()
        namespace, name = key.parse(text)
        ref = ObjectRef(Kind.CONFIG_MAP, namespace, name)
        self.references.add(ref)
        found = self._objects(ref)
        if not isinstance(found, ConfigMap):
            raise ValueError(f"there is no ConfigMap {namespace}/{name}")
        report = Report(str(found.ref), found.origin)
        self.other_reports.append(report)
        return header_fields(key.name, found, report)

    def _refuse(self, key: Key, text: str, message: str) -> None:
        self.report.error(f"data.{key.name}", VerdictReason.INVALID_FIELD, message, text)

    def _warn(self, key: Key, text: str, message: str) -> None:
        self.report.warning(f"data.{key.name}", VerdictReason.UNSUPPORTED_FIELD, message, text)

    def _unknown(self, name: str, text: str) -> None:
        hint = ""
        if self._suggestions:
            self._suggestions -= 1
            close = difflib.get_close_matches(name[:80], BY_NAME, n=1, cutoff=0.75)
            hint = f" Did you mean {close[0]}?" if close else ""
        self.report.warning(
            f"data.{shown(name)}",
            VerdictReason.UNSUPPORTED_FIELD,
            f"There is no such option: it has no effect, in ingress-nginx neither.{hint}",
            text,
        )


# ---- from values to options -----------------------------------------------------------------------------------------


def _assemble(found: Mapping[str, Any], base: ProxySettings) -> Options:
    changes: dict[str, Any] = {}
    for name, value in found.items():
        target = BY_NAME[name].target
        if target:
            changes[target] = value
    changes.update(_combined(found, base))
    options: Options = _with(
        dataclasses.replace(DEFAULT_OPTIONS, proxy=base), {tuple(t.split(".")): v for t, v in changes.items()}
    )
    traffic = options.traffic
    if options.retry_non_idempotent and traffic.retry_on and RetryOn.NON_IDEMPOTENT not in traffic.retry_on:
        traffic = msgspec.structs.replace(traffic, retry_on=(*traffic.retry_on, RetryOn.NON_IDEMPOTENT))
    return dataclasses.replace(options, traffic=traffic, proxy=None if options.proxy == base else options.proxy)


def _combined(value: Mapping[str, Any], base: ProxySettings) -> dict[str, Any]:
    """Fields that several options make together."""
    changes: dict[str, Any] = {}
    if value.get("disable-access-log") or value.get("disable-http-access-log"):
        changes["proxy.access_log"] = False
    if value.get("disable-access-log") or value.get("disable-stream-access-log"):
        changes["proxy.stream.access_log"] = False
    if value.get("log-format-escape-none"):
        changes["proxy.log.escape"] = "none"  # wins over JSON, as in ingress-nginx
    elif value.get("log-format-escape-json"):
        changes["proxy.log.escape"] = "json"
    if "client-header-timeout" in value:
        changes["proxy.tls.handshake_timeout_s"] = value["client-header-timeout"]
    number, line = value.get("large-client-header-buffers", (0, base.header_line_limit_bytes))
    total = number * line or base.header_total_limit_bytes
    first = value.get("client-header-buffer-size", 0)
    if number or first > line:
        line = max(line, first)
        changes["proxy.request_line_limit_bytes"] = changes["proxy.header_line_limit_bytes"] = line
        changes["proxy.header_total_limit_bytes"] = max(total, line)
    buffered = _value_of(_ALL, "traffic.request_buffer_bytes")
    if "client-body-buffer-size" in value:
        changes["traffic.request_buffer_bytes"] = max(buffered, value["client-body-buffer-size"])
    for codec, switch in _CODECS.items():
        if value.get(switch):
            changes[f"compression.{codec}"] = _codec(value, codec)
    return changes


_CODECS = {"gzip": "use-gzip", "brotli": "enable-brotli", "zstd": "enable-zstd"}


def _codec(value: Mapping[str, Any], codec: str) -> CodecOptions:
    def number(name: str) -> int:
        return int(value.get(f"{codec}-{name}", BY_NAME[f"{codec}-{name}"].default))

    types = value.get(f"{codec}-types") or (BROTLI_TYPES if codec == "brotli" else GZIP_TYPES)
    return CodecOptions(number("level"), number("min-length"), types)


def _with(whole: Any, changes: Mapping[tuple[str, ...], Any]) -> Any:
    """A copy with the fields at these paths replaced."""
    direct: dict[str, Any] = {}
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    for (name, *rest), value in changes.items():
        if rest:
            nested.setdefault(name, {})[tuple(rest)] = value
        else:
            direct[name] = value
    for name, inner in nested.items():
        direct[name] = _with(getattr(whole, name), inner)
    if not direct:
        return whole
    return (
        msgspec.structs.replace(whole, **direct)
        if isinstance(whole, msgspec.Struct)
        else dataclasses.replace(whole, **direct)
    )
