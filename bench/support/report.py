"""Markdown tables, and sections of bench/RESULTS.md that one benchmark owns and rewrites."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.support.machine import Machine

RESULTS = Path(__file__).parent.parent / "RESULTS.md"
_PREAMBLE = """# Benchmark results

Written by the benchmarks themselves; how to repeat them and what the columns mean is in [README.md](README.md).
Absolute figures belong to the machine named with them. Compare ratios, and only those of one run.
"""


def number(value: float | None, digits: int = 1) -> str:
    """`-` for None; thousands separated."""
    return "-" if value is None else f"{value:,.{digits}f}"


def percent(value: float) -> str:
    return f"± {value * 100:.0f} %"


def mib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 20):,.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, all others to the right; padded so that it reads well unrendered."""
    cells = [list(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = []
    for index, row in enumerate(cells):
        padded = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append(f"| {' | '.join(padded)} |")
        if index == 0:
            lines.append(f"| {' | '.join(['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])])} |")
    return "\n".join(lines)


def replace_section(text: str, name: str, body: str) -> str:
    """`text` with the section `name` replaced, or added at the end. Sections stand between two HTML comments."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    before, found, rest = (text or _PREAMBLE).partition(begin)
    if not found:
        return f"{before.rstrip()}\n\n{section}\n"
    _, _, after = rest.partition(end)
    return f"{before}{section}{after}"


def command_line(module: str, arguments: Sequence[str]) -> str:
    """How the benchmark was started, without the folders of this machine."""

    def neutral(argument: str) -> str:
        name, equals, value = argument.partition("=")
        if equals:
            return f"{name}={neutral(value)}"
        return Path(argument).name if argument.startswith("/") else argument

    return f"python -m {module} {shlex.join(neutral(a) for a in arguments)}".strip()


def provenance(machine: Machine, module: str, extra: Sequence[tuple[str, str]] = ()) -> str:
    """The lines every section starts with."""
    facts = [
        ("commit", machine.commit),
        ("date", machine.date),
        ("machine", machine.hardware),
        ("Python", machine.python),
        ("event loop", machine.event_loop),
        ("command", f"`{command_line(module, sys.argv[1:])}`"),
        *extra,
    ]
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure to FILE")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="write the section here (default: bench/RESULTS.md)"
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument(
        "--quick", action="store_true", help="a short run to see that it works; prints only, unless --results"
    )
    parser.add_argument("--keep", action="store_true", help="keep configurations and logs, and say where")


def publish(options: argparse.Namespace, name: str, body: str) -> None:
    """Print a section, and write it where the options say."""
    print(f"\n{body.strip()}\n")
    path: Path | None = options.results or (None if options.quick else RESULTS)
    if path is None or options.no_write:
        return
    path.write_text(replace_section(path.read_text() if path.exists() else "", name, body))
    print(f"written to {path.name}", file=sys.stderr)
