"""Text with nginx variables: what values of annotations are made of.

`parse_value` takes a text apart when configuration changes (pure data, which travels in tables), `compile_value` and `compile_field_value`
make the function that puts it together for a request.
"""

from ingress.variables.evaluate import (
    Evaluate,
    RuleNames,
    Subject,
    argument_value,
    compile_field_value,
    compile_value,
    cookie_value,
    escape_uri_component,
)
from ingress.variables.parse import Part, Variable, is_constant, parse_value

__all__ = [
    "Evaluate",
    "Part",
    "RuleNames",
    "Subject",
    "Variable",
    "argument_value",
    "compile_field_value",
    "compile_value",
    "cookie_value",
    "escape_uri_component",
    "is_constant",
    "parse_value",
]
