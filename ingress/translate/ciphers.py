"""Lists of ciphers as OpenSSL writes them. Pure: whether one chooses anything is told from the names alone, without OpenSSL.

OpenSSL passes over names that it doesn't know, and refuses a list that chooses nothing: a misspelt one would then cost every handshake.
"""

import re

_LIST = re.compile(r"[A-Za-z0-9+\-_:!@=., ]{1,4096}", re.ASCII)
_SEPARATORS = re.compile(r"[:, ]+|(?=@)")

# Words of a rule, and the pieces that names of suites are made of, in capitals: openssl-ciphers(1)
_NAMES = """
ALL COMPLEMENTOFALL DEFAULT COMPLEMENTOFDEFAULT HIGH MEDIUM LOW SUITEB128 SUITEB128ONLY SUITEB192 FIPS ENULL ANULL NULL
RSA KRSA ARSA DH DHE EDH ADH KDHE KEDH KDH KDHR KDHD ADSS DSS ECDH ECDHE EECDH AECDH KEECDH KECDHE KECDH ECDSA AECDSA
TLSV1 TLSV1.0 TLSV1.2 SSLV3 AES AES128 AES256 128 256 AESGCM AESCCM AESCCM8 GCM CCM CCM8 CBC CBC3 POLY1305 CHACHA20 ARIA ARIAGCM ARIA128 ARIA256
CAMELLIA CAMELLIA128 CAMELLIA256 3DES DES RC2 RC4 IDEA SEED MD5 SHA SHA1 SHA256 SHA384
PSK KPSK KECDHEPSK KDHEPSK KRSAPSK APSK SRP KSRP ASRP GOST KGOST AGOST GOST94 GOST89 GOST2001 GOST2012 GOST89MAC EXPORT
"""
_WORDS = frozenset(_NAMES.split())


def parse_ciphers(text: str) -> str:
    """The list as it is. Raises ValueError for what OpenSSL wouldn't take."""
    if not _LIST.fullmatch(text):
        raise ValueError("it is not a list of ciphers as OpenSSL writes it: names, joined by colons")
    if not any(map(_chooses, _SEPARATORS.split(text))):
        raise ValueError("it is a list of ciphers that names none: OpenSSL knows no such name")
    return text


def _chooses(rule: str) -> bool:
    if rule.startswith("PROFILE="):
        return True  # what Linux distributions add
    pieces = re.split(r"[+-]", rule)
    return all(piece.upper() in _WORDS for piece in pieces)
