"""Files of users and password hashes (htpasswd), as nginx's auth_basic reads them: parse, and verify one password.

Hashes: bcrypt (`$2a$`, `$2b$`, `$2y$`), `$apr1$`, `{SHA}`, `{SSHA}`, `{PLAIN}`, and those of crypt(3): `$1$`, `$5$`, `$6$`, DES. Nothing here logs or raises
with a hash or a password in it.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator

import bcrypt
from passlib.hash import apr_md5_crypt, des_crypt, md5_crypt, sha256_crypt, sha512_crypt

LINE_LIMIT_BYTES = 4096
USER_LIMIT = 100_000
# What somebody could make a worker do with a Secret: one verification at the limit takes about two seconds of a core.
BCRYPT_COST_LIMIT = 15
SHA_ROUNDS_LIMIT = 1_000_000
_BCRYPT_BYTES = 72  # the algorithm doesn't look further; the library refuses instead
_PASSWORD_LIMIT_BYTES = 4096  # of what a client sends

_B64_22 = r"[./A-Za-z0-9]{22}"
_FORMS: tuple[tuple[re.Pattern[str], bool], ...] = tuple(
    (re.compile(pattern, re.ASCII), slow)
    for pattern, slow in (
        (r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", True),
        (r"\$apr1\$[./A-Za-z0-9]{0,8}\$" + _B64_22, True),
        (r"\$1\$[./A-Za-z0-9]{0,8}\$" + _B64_22, True),
        (r"\$5\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{43}", True),
        (r"\$6\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{86}", True),
        (r"\{SHA\}[A-Za-z0-9+/]{27}=", False),
        (r"\{SSHA\}[A-Za-z0-9+/]+={0,2}", False),
        (r"\{PLAIN\}.*", False),
        (r"[./A-Za-z0-9]{13}", True),
    )
)
_SLOW = re.compile(r"\$|[./A-Za-z0-9]{13}\Z", re.ASCII)


def parse_file(text: str) -> Iterator[tuple[int, str, str, str]]:
    """(line number, user, hash, fault) of each line that is neither empty nor a comment; `fault` empty: it can be used.

    `user:hash`, and what follows a further colon is a comment, as in nginx. `text` is bytes decoded as latin-1.
    """
    for number, line in enumerate(text.split("\n"), 1):  # splitlines knows line ends that are letters in UTF-8
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, rest = line.partition(":")
        if not colon:
            yield number, "", "", "it has no colon"
        elif len(line) > LINE_LIMIT_BYTES:
            yield number, "", "", "it is too long"
        elif not user:
            yield number, "", "", "it has no user name"
        else:
            hashed = rest.partition(":")[0].strip()
            yield number, user, hashed, fault_of(hashed)


def fault_of(hashed: str) -> str:
    """Why a hash can't be used, as a clause that doesn't tell it; empty: it can."""
    if not hashed:
        return "it has no password"
    for pattern, _ in _FORMS:
        match = pattern.fullmatch(hashed)
        if match is None:
            continue
        if hashed.startswith("$2"):
            cost = int(match[1])
            if not 4 <= cost <= BCRYPT_COST_LIMIT:
                return f"its bcrypt cost is not between 4 and {BCRYPT_COST_LIMIT}"
        elif hashed.startswith(("$5$", "$6$")):
            if match[1] is not None and not 1000 <= int(match[1]) <= SHA_ROUNDS_LIMIT:
                return f"its number of rounds is not between 1000 and {SHA_ROUNDS_LIMIT}"
        elif hashed.startswith("{SSHA}"):
            try:
                if len(base64.b64decode(hashed[6:], validate=True)) <= 20:
                    return "its hash is too short"
            except binascii.Error:
                return "its hash is not base64"
        return ""
    return "its hash is of no kind that is known"


def is_slow(hashed: str) -> bool:
    """Whether verifying takes long enough (0.3 ms to seconds) to be kept off the loop."""
    return _SLOW.match(hashed) is not None


def verify(hashed: str, password: bytes) -> bool:
    """Whether `password` is the one; False too for a hash that can't be used. May take seconds. Comparisons take constant time."""
    if len(password) > _PASSWORD_LIMIT_BYTES or b"\0" in password:
        return False
    try:
        return _verifier(hashed)(hashed, password)
    except (ValueError, TypeError):
        return False


def _verifier(hashed: str) -> Callable[[str, bytes], bool]:
    if hashed.startswith("$2"):
        return _bcrypt
    if hashed.startswith("{"):
        return _PREFIXED.get(hashed.partition("}")[0] + "}", _never)
    if hashed.startswith("$"):
        return _CRYPT.get(hashed[: hashed.index("$", 1) + 1], _never)
    return _des


def _never(hashed: str, password: bytes) -> bool:
    return False


def _bcrypt(hashed: str, password: bytes) -> bool:
    return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode("latin-1"))


def _sha(hashed: str, password: bytes) -> bool:
    wanted = base64.b64decode(hashed[5:], validate=True)
    return hmac.compare_digest(hashlib.sha1(password, usedforsecurity=False).digest(), wanted)


def _ssha(hashed: str, password: bytes) -> bool:
    wanted = base64.b64decode(hashed[6:], validate=True)
    return hmac.compare_digest(hashlib.sha1(password + wanted[20:], usedforsecurity=False).digest(), wanted[:20])


def _plain(hashed: str, password: bytes) -> bool:
    # Digests have one length, so that the comparison doesn't tell that of the password.
    mine, theirs = hashed[7:].encode("latin-1"), password
    return hmac.compare_digest(hashlib.sha256(mine).digest(), hashlib.sha256(theirs).digest())


def _des(hashed: str, password: bytes) -> bool:
    return bool(des_crypt.verify(password, hashed))


def _md5(hashed: str, password: bytes) -> bool:
    return bool(md5_crypt.verify(password, hashed))


def _apr1(hashed: str, password: bytes) -> bool:
    return bool(apr_md5_crypt.verify(password, hashed))


def _sha256(hashed: str, password: bytes) -> bool:
    return bool(sha256_crypt.verify(password, hashed))


def _sha512(hashed: str, password: bytes) -> bool:
    return bool(sha512_crypt.verify(password, hashed))


_PREFIXED = {"{SHA}": _sha, "{SSHA}": _ssha, "{PLAIN}": _plain}
_CRYPT = {"$apr1$": _apr1, "$1$": _md5, "$5$": _sha256, "$6$": _sha512}
