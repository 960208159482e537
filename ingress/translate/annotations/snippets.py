"""What a snippet of nginx configuration would have done to access. Read only, never interpreted."""

import re

# A directive stands at the start of the text or behind ; { or }. Lua phases and includes can hold anything, so they count as well.
_ACCESS_DIRECTIVE = re.compile(
    r"(?:^|[;{}])\s*(allow|deny|satisfy|auth_\w+|ssl_verify_client|secure_link\w*|modsecurity\w*|internal|include"
    r"|(?:access|rewrite)_by_lua\w*|return\s+(?:401|403|404|444))\b",
    re.ASCII,
)
_COMMENT = re.compile(r"(?:^|\s)#[^\n]*")


def access_directive(snippet: str) -> str | None:
    """The first directive that restricts access, None if there is none."""
    match = _ACCESS_DIRECTIVE.search(_COMMENT.sub(" ", snippet))
    return match[1] if match else None
