"""The table of options is complete, says the truth about itself, and names tests that exist."""

import ast
from functools import cache
from pathlib import Path

import pytest

from ingress.config import ProxySettings
from ingress.errors import Severity
from ingress.translate.options.keys import BY_NAME, KEYS, Key, Status
from ingress.translate.options.model import GZIP_TYPES, CodecOptions, CompressionOptions
from ingress.translate.options.parse import ParsedOptions, parse_options
from tests.translate.test_options import config_map

ROOT = Path(__file__).parent.parent.parent
LIVE = [key for key in KEYS if key.status in (Status.SAME, Status.DIFFERS)]


def of(*statuses: Status) -> list[Key]:
    return [key for key in KEYS if key.status in statuses]


def names(keys: list[Key]) -> list[str]:
    return [key.name for key in keys]


def parse(data: dict[str, str]) -> ParsedOptions:
    return parse_options(config_map(data), ProxySettings())


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(KEYS)


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("key", KEYS, ids=names(list(KEYS)))
def test_every_key_names_a_test_that_exists(key: Key) -> None:
    file, _, function = key.test.partition("::")
    assert function in functions(file), key.test


@pytest.mark.parametrize("key", LIVE, ids=names(LIVE))
def test_sets_its_field(key: Key) -> None:
    """The example is accepted and changes the options; the default is accepted and changes nothing."""
    if key.reference:
        assert len(parse({key.name: key.example}).references) == 1
        return
    result = parse({key.name: key.example})
    assert not result.verdicts
    assert key.name in result.good
    if key.target or not key.name.startswith(("gzip-", "brotli-", "zstd-")):  # these ask for nothing alone
        assert result.options != ParsedOptions().options, key.name
    if key.name in _OTHER_DEFAULTS:
        return
    assert parse({key.name: key.default}).options == ParsedOptions().options
    assert not parse({key.name: key.default}).verdicts


_OTHER_DEFAULTS = frozenset(
    (
        "strict-validate-path-type",  # differs: unset means false here
        "enable-access-log-for-default-backend",  # differs: unset means true here
        "log-format-upstream",  # set to its default it still wins over --log-format
        "ssl-ciphers",  # the same suites in another order
        *("global-auth-signin-redirect-param", "global-auth-cache-duration", "global-auth-always-set-cookie"),  # texts
    )
)


@pytest.mark.parametrize("key", of(Status.NO_EFFECT), ids=names(of(Status.NO_EFFECT)))
def test_accepted_in_silence(key: Key) -> None:
    assert parse({key.name: "17"}) == parse({key.name: key.default}) == ParsedOptions()
    assert key.note


@pytest.mark.parametrize("key", of(Status.REFUSED), ids=names(of(Status.REFUSED)))
def test_refused(key: Key) -> None:
    """What asks for something is an error that says what to do instead; what asks for nothing is not."""
    result = parse({key.name: "else"})
    (verdict,) = result.verdicts
    assert verdict.severity is Severity.ERROR
    assert key.note in verdict.message
    assert result.options == ParsedOptions().options
    assert parse({key.name: key.default}) == ParsedOptions()


@pytest.mark.parametrize("key", of(Status.IGNORED), ids=names(of(Status.IGNORED)))
def test_ignored_by_both(key: Key) -> None:
    (verdict,) = parse({key.name: "x"}).verdicts
    assert verdict.severity is Severity.WARNING
    assert "in ingress-nginx neither" in verdict.message


def test_a_snippet_is_never_run_and_always_named() -> None:
    for name in ("main-snippet", "http-snippet", "server-snippet", "location-snippet", "stream-snippet"):
        assert len(parse({name: "return 403;"}).verdicts) == 1
    assert len(parse({"allow-snippet-annotations": "true"}).verdicts) == 1


def test_compression_is_made_of_several_options() -> None:
    found = parse(
        {"use-gzip": "true", "gzip-level": "5", "enable-brotli": "true", "brotli-types": "text/css text/plain"}
    )
    assert found.options.compression == CompressionOptions(
        gzip=CodecOptions(5, 256, GZIP_TYPES), brotli=CodecOptions(4, 20, ("text/css", "text/plain"))
    )
    zstd = parse({"enable-zstd": "true", "zstd-level": "6", "zstd-min-length": "1", "gzip-disable": "msie6"})
    assert zstd.options.compression == CompressionOptions(zstd=CodecOptions(6, 1), gzip_disable="msie6")
    assert parse({"gzip-level": "5"}).options == ParsedOptions().options  # alone it asks for nothing
