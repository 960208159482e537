"""Browsers that take SameSite=None for SameSite=Strict, or drop the cookie: by their User-Agent, as ingress-nginx tells them apart.

Source: https://www.chromium.org/updates/same-site/incompatible-clients. Old enough by now that the list won't grow.
"""

_BROKEN = (b"Chrome/4", b"Chrome/5", b"Chrome/6", b"CPU iPhone OS 12", b"iPad; CPU OS 12")


def understands_none(user_agent: bytes | None) -> bool:
    if not user_agent:
        return True
    if any(part in user_agent for part in _BROKEN):
        return False
    # Safari of macOS 10.14
    return not (
        b"Macintosh" in user_agent
        and b"Intel Mac OS X 10_14" in user_agent
        and b"Safari" in user_agent
        and b"Chrome" not in user_agent
    )
