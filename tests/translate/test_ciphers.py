"""Lists of ciphers: told good from bad by names alone, as OpenSSL tells them."""

import ssl

import pytest

from ingress.translate.ciphers import parse_ciphers


def openssl_takes(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(text)
    except ssl.SSLError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "HIGH:!AES",
        "DEFAULT@SECLEVEL=0",
        "ECDHE+AESGCM:DHE+AES",
        "kEECDH+AES",
        "HIGH, AES",
        "HIGH:NOPE",
        "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-SHA",
        "ALL:!aNULL:!EXPORT56:RC4+RSA:+HIGH:+MEDIUM:+LOW:+SSLv2:+EXP",
    ],
)
def test_good(text: str) -> None:
    assert openssl_takes(text)
    assert parse_ciphers(text) == text


@pytest.mark.parametrize("text", ["NOPE", "!ALL", "@STRENGTH", "ECDHE-NOPE-AES128", "TLS_AES_128_GCM_SHA256", ":", "-"])
def test_bad(text: str) -> None:
    assert not openssl_takes(text)
    with pytest.raises(ValueError, match="knows no cipher of this list"):
        parse_ciphers(text)


@pytest.mark.parametrize("text", ["", "HIGH;", "HIGH\n", "HIGH'", "A" * 5000, "H\u00cfGH"])
def test_no_list_at_all(text: str) -> None:
    with pytest.raises(ValueError, match="not a list of ciphers"):
        parse_ciphers(text)


def test_every_suite_of_openssl_is_known() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = [cipher["name"] for cipher in context.get_ciphers() if not cipher["name"].startswith("TLS_")]
    assert len(names) > 20
    for name in names:
        assert parse_ciphers(name) == name
