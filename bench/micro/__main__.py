"""`python -m bench.micro`: see bench/README.md."""

import argparse
import json
import sys

from bench.micro.cases import CASES
from bench.micro.runner import run_case, timings_table
from bench.support import machine
from bench.support.report import add_output_options, provenance, publish


def main() -> int:
    top = argparse.ArgumentParser(prog="python -m bench.micro", description="nanoseconds a call of single functions")
    top.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    top.add_argument("--repeats", type=int, help="default: 15")
    add_output_options(top)
    options = top.parse_args()
    chosen = [case for case in CASES if options.only in case.name]
    if not chosen:
        print(f"bench.micro: no case contains {options.only!r}", file=sys.stderr)
        return 2
    repeats = options.repeats or (3 if options.quick else 15)
    timings = []
    for case in chosen:
        timings.append(run_case(case, repeats, at_least_s=0.005 if options.quick else 0.05))
        print(f"{case.name}: {timings[-1].median_ns:,.0f} ns", file=sys.stderr, flush=True)
    here = machine.describe()
    facts = [("repeats", f"{repeats}, median")]
    body = ["## Micro: single functions", provenance(here, "bench.micro", facts), timings_table(timings)]
    publish(options, "micro", "\n\n".join(body))
    if options.json:
        raw = {"machine": here.hardware, "commit": here.commit, "date": here.date}
        cases = {one.name: {"calls": one.calls, "repeats_ns": one.repeats_ns} for one in timings}
        options.json.write_text(json.dumps(raw | {"cases": cases}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
