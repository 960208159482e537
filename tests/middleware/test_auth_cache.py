"""How long an answer may be used again, and that it is nobody else's."""

import pytest

from ingress.middleware.auth_cache import Answer, AnswerCache, lifetime_s
from ingress.middleware.sidecalls import SideResponse
from tests.middleware.support import exchange

DURATIONS = ((200, 60.0), (401, 5.0))
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("status", "fields", "wanted"),
    [
        (200, {}, 60.0),
        (401, {}, 5.0),
        (202, {}, 0.0),
        (500, {}, 0.0),
        (200, {"Cache-Control": "max-age=10"}, 10.0),
        (200, {"Cache-Control": "max-age=10, s-maxage=20"}, 20.0),
        (200, {"Cache-Control": "public, Max-Age=10"}, 10.0),
        (202, {"Cache-Control": "max-age=10"}, 10.0),
        (403, {"Cache-Control": "max-age=10"}, 10.0),
        (500, {"Cache-Control": "max-age=10"}, 0.0),
        (302, {"Cache-Control": "max-age=10"}, 0.0),
        (200, {"Cache-Control": "no-store"}, 0.0),
        (200, {"Cache-Control": "max-age=10, private"}, 0.0),
        (200, {"Cache-Control": "no-cache"}, 0.0),
        (200, {"Cache-Control": 'private="x"'}, 0.0),
        (200, {"Cache-Control": "max-age=0"}, 0.0),
        (200, {"Cache-Control": "max-age=-1"}, 0.0),
        (200, {"Cache-Control": "max-age=x"}, 0.0),
        (200, {"Cache-Control": "max-age=99999999999999999999"}, 0.0),
        (200, {"Cache-Control": "max-age=9999999999"}, 31536000.0),
        (200, {"Cache-Control": "must-revalidate"}, 60.0),
        (200, {"X-Accel-Expires": "7", "Cache-Control": "no-store"}, 7.0),
        (200, {"X-Accel-Expires": "0"}, 0.0),
        (200, {"X-Accel-Expires": "@784111787"}, 10.0),
        (200, {"X-Accel-Expires": "@1"}, 0.0),
        (200, {"Expires": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10.0),
        (200, {"Expires": "Sun, 06 Nov 1994 08:49:00 GMT"}, 0.0),
        (200, {"Expires": "0"}, 0.0),
        (200, {"Set-Cookie": "a=b", "Cache-Control": "max-age=10"}, 0.0),
        (200, {"Vary": "*"}, 0.0),
        (200, {"Vary": "Cookie"}, 60.0),
    ],
)
def test_lifetime(status: int, fields: dict[str, str], wanted: float) -> None:
    response = SideResponse(status, tuple((k.encode(), v.encode()) for k, v in fields.items()))
    assert lifetime_s(response, DURATIONS, NOW) == wanted


def test_any_status_and_order() -> None:
    assert lifetime_s(SideResponse(418), ((200, 1.0), (0, 2.0)), NOW) == 2.0
    assert lifetime_s(SideResponse(200), ((0, 2.0), (200, 1.0)), NOW) == 2.0


def test_it_ends() -> None:
    now = [0.0]
    cache = AnswerCache(lambda: now[0])
    key = cache.key(b"s" * 32, b"k")
    cache.keep(key, exchange(), Answer(200), SideResponse(200), 5.0)
    now[0] = 4.9
    assert cache.find(key, exchange()) == Answer(200)
    now[0] = 5.1
    assert cache.find(key, exchange()) is None


def test_it_is_bounded() -> None:
    cache = AnswerCache(lambda: 0.0, entries=100)
    for n in range(1000):
        cache.keep(cache.key(b"", b"%d" % n), exchange(), Answer(401), SideResponse(401), 60.0)
    assert len(cache) <= 100


def test_keys() -> None:
    cache = AnswerCache(lambda: 0.0)
    assert cache.key(b"a", b"k") != cache.key(b"b", b"k")
    assert cache.key(b"a", b"k") != AnswerCache(lambda: 0.0).key(b"a", b"k")  # another worker's secret
    assert b"secret-cookie" not in cache.key(b"a", b"secret-cookie")


def test_what_it_varies_by() -> None:
    cache = AnswerCache(lambda: 0.0)
    response = SideResponse(200, ((b"Vary", b"Cookie, Accept-Language"),))
    mine = exchange(b"/", (b"Cookie", b"a=1"))
    cache.keep(b"k", mine, Answer(200), response, 60.0)
    assert cache.find(b"k", mine) is not None
    assert cache.find(b"k", exchange(b"/", (b"cookie", b"a=1"))) is not None
    assert cache.find(b"k", exchange(b"/", (b"Cookie", b"a=2"))) is None
    assert cache.find(b"k", exchange(b"/", (b"Cookie", b"a=1"), (b"Accept-Language", b"de"))) is None
    assert cache.find(b"k", exchange()) is None
