"""The samples as Markdown and as JSON. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.load.run import DIRECT, Sample, Series
from bench.load.scenarios import Scenario
from bench.support.figures import median, ratio, spread
from bench.support.report import mib, number, percent, table

Results = Sequence[tuple[Scenario, Sequence[Series]]]


def cpu_us(series: Series) -> float | None:
    values = [sample.cpu_us for sample in series.samples if sample.cpu_us is not None]
    return median(values) if values else None


def rate(series: Series) -> float | None:
    values = [sample.load.requests / sample.load.seconds for sample in series.samples]
    return median(values) if values else None


def _named(series: Sequence[Series], name: str) -> Series:
    return next((one for one in series if one.name == name), Series(name))


def _row(one: Series, base: Series) -> list[str]:
    samples = one.samples
    cpu, per_s = cpu_us(one), rate(one)
    errors = sum(sample.errors for sample in samples)
    cpu_values = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
    foreign = [sample.foreign for sample in samples if sample.foreign is not None]
    busy = [sample.busy for sample in samples if sample.busy is not None]
    return [
        one.name,
        number(cpu),
        percent(spread(cpu_values)) if len(cpu_values) > 1 else "-",
        number(ratio(cpu, cpu_us(base)) if cpu is not None else None, 2),
        number(per_s, 0),
        number(ratio(per_s, rate(base)) if per_s is not None else None, 2),
        f"{median(busy) * 100:.0f} %" if busy else "-",
        f"{median(foreign) * 100:.0f} %" if foreign else "-",
        number(median([sample.load.p50_ms for sample in samples]), 2),
        number(median([sample.load.p99_ms for sample in samples]), 2),
        "-" if one.pss_bytes is None else mib(one.pss_bytes),
        f"**{errors}**" if errors else "0",
    ]


HEADER = (
    "proxy",
    "CPU µs/request",
    "spread",
    "x nginx",
    "requests/s",
    "x nginx",
    "of the core",
    "others",
    "p50 ms",
    "p99 ms",
    "PSS MiB",
    "errors",
)


def scenario_table(scenario: Scenario, series: Sequence[Series], base_name: str) -> str:
    base = _named(series, base_name)
    rows = [_row(one, base) for one in series if one.samples]
    failures = "".join(f"\n- {one.name}: {one.failure}" for one in series if one.failure)
    text = f"### {scenario.name}\n\n{scenario.summary}; {scenario.connections} connections.\n\n{table(HEADER, rows)}"
    return f"{text}\n{failures}" if failures else text


def summary_table(results: Results, base_name: str) -> str:
    """CPU per request of every proxy in every scenario, as a multiple of nginx."""
    names = [one.name for one in results[0][1] if one.name != DIRECT]
    rows = []
    for name in names:
        row = [name]
        for _, series in results:
            cpu = cpu_us(_named(series, name))
            relative = ratio(cpu, cpu_us(_named(series, base_name))) if cpu is not None else None
            row.append("-" if cpu is None else f"{number(cpu)} ({number(relative, 2)})")
        rows.append(row)
    return table(["CPU µs/request (x nginx)", *(scenario.name for scenario, _ in results)], rows)


def growth_table(results: Results) -> str:
    """What 10,000 routes cost over one route, for each proxy; empty when one of the two was not run."""
    by_name = {scenario.name: series for scenario, series in results}
    if not {"small", "routes-10k"} <= by_name.keys():
        return ""
    rows = []
    for one in by_name["small"]:
        few, many = cpu_us(one), cpu_us(_named(by_name["routes-10k"], one.name))
        if few is not None and many is not None:
            rows.append([one.name, number(few), number(many), f"{(many / few - 1) * 100:+.0f} %"])
    return table(["proxy", "1 route, CPU µs", "10,000 routes, CPU µs", "difference"], rows)


def _sample_json(sample: Sample) -> dict[str, Any]:
    load = sample.load
    return {
        "requests": load.requests,
        "seconds": load.seconds,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "status_errors": load.status_errors,
        "socket_errors": load.socket_errors,
        "cpu_us_per_request": sample.cpu_us,
        "core_busy": sample.busy,
        "core_foreign": sample.foreign,
    }


def as_json(results: Results, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "scenarios": {
            scenario.name: {
                one.name: {
                    "samples": [_sample_json(sample) for sample in one.samples],
                    "pss_bytes": one.pss_bytes,
                    "failure": one.failure,
                }
                for one in series
            }
            for scenario, series in results
        },
    }
