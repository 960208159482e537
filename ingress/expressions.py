"""Regular expressions of other people, compiled by RE2 with our limits: no look-around, no back-references, time linear in the text whatever
it is, and a bounded size. Everything compiles them here, so that what was checked is what is matched.

Requests are bytes, and so are the expressions for them: `compile_expression` takes an expression's UTF-8 as bytes. A character that isn't
ASCII is several of them.
"""

from typing import Any

import re2

MEMORY_BYTES = 1 << 20  # of one compiled expression


def options(*, ignore_case: bool = False, memory_bytes: int = MEMORY_BYTES, captures: bool = True) -> Any:
    """How RE2 compiles an expression for bytes. Without `captures`, groups are only for grouping, which is faster."""
    made = re2.Options()
    made.encoding = re2.Options.Encoding.LATIN1
    made.log_errors = False
    made.max_mem = memory_bytes
    made.case_sensitive = not ignore_case
    made.never_capture = not captures
    return made


def compile_expression(expression: str, *, ignore_case: bool = False, captures: bool = True) -> Any:
    """To search bytes with. Raises ValueError with RE2's reason, such as `missing ): (a`."""
    return _compiled(expression.encode(), options(ignore_case=ignore_case, captures=captures))


def compile_text_expression(expression: str) -> Any:
    """To search text with, character by character. Raises ValueError as `compile_expression` does."""
    made = options()
    made.encoding = re2.Options.Encoding.UTF8
    return _compiled(expression, made)


def _compiled(expression: str | bytes, how: Any) -> Any:
    try:
        return re2.compile(expression, how)
    except re2.error as problem:
        raise ValueError(reason_of(problem)) from None


def reason_of(problem: Exception) -> str:
    """What RE2 says is wrong with an expression."""
    reason = problem.args[0] if problem.args else problem
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
