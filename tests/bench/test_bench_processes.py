import sys
import time
from pathlib import Path

import pytest

from bench.support.processes import (
    BenchError,
    MemoryUse,
    ProcessStat,
    ProcessTree,
    memory_of,
    parse_core_busy,
    parse_rollup,
    parse_stat,
    tree_of,
)


def stat(pid: int, parent: int, session: int) -> ProcessStat:
    return ProcessStat(pid, parent, session, 0.0, 0.0)


def test_stat_fields_start_after_the_last_parenthesis() -> None:
    text = "42 (a) odd (name) S 7 42 40 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100 0 0"
    found = parse_stat(text)
    assert (found.pid, found.parent, found.session) == (42, 7, 40)
    assert found.own_s == pytest.approx(4 * found.children_s)
    assert found.own_s > 0


def test_tree_holds_descendants_and_orphans_of_the_session_only() -> None:
    stats = [
        stat(10, 1, 10),  # the root
        stat(11, 10, 10),
        stat(12, 11, 12),  # a grandchild that made a session of its own
        stat(13, 1, 10),  # orphaned, same session
        stat(14, 13, 14),  # child of the orphan
        stat(20, 1, 20),  # a stranger
    ]
    assert [one.pid for one in tree_of(10, stats)] == [10, 11, 12, 13, 14]


def test_core_busy_leaves_idle_and_other_cores_out() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 20 30 1000 500 1 2 7 0 0\ncpu1 900 0 0 0 0 0 0 0 0 0\nintr 5\n"
    assert parse_core_busy(text, [0]) * 900 == pytest.approx(parse_core_busy(text, [1]) * 70)
    assert parse_core_busy(text, [0, 1]) == pytest.approx(parse_core_busy(text, [0]) + parse_core_busy(text, [1]))


def test_rollup_is_read_in_bytes() -> None:
    text = (
        "55bff0116000-7ffd1d571000 ---p 00000000 00:00 0  [rollup]\nRss:    1752 kB\nPss:     381 kB\nPss_Dirty: 9 kB\n"
    )
    assert parse_rollup(text) == {"Rss": 1752 * 1024, "Pss": 381 * 1024}


def ends(pid: int) -> bool:
    """Whether the process is gone, or goes within 5 s (it may be a zombie until its new parent has reaped it)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if memory_of(pid) is None:
            return True
        time.sleep(0.01)
    return False


def wait_for_members(tree: ProcessTree, count: int) -> list[MemoryUse]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        members = tree.memory()
        if len(members) == count:
            return members
        time.sleep(0.01)
    raise AssertionError(f"{len(tree.memory())} members instead of {count}")


def test_stop_ends_the_whole_tree_even_what_ignores_sigterm(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 60 & sleep 60 & wait; sleep 60"
    tree = ProcessTree("stubborn", ["sh", "-c", script], log=tmp_path / "log")
    try:
        members = wait_for_members(tree, 3)
    finally:
        tree.stop(grace_s=0.2)
    assert tree.ended()
    assert [use.pid for use in members if not ends(use.pid)] == []


def test_ended_process_is_reported_with_its_last_words(tmp_path: Path) -> None:
    tree = ProcessTree("short", [sys.executable, "-c", "raise SystemExit('no such port')"], log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 10
        while not tree.ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(BenchError, match="short ended with exit code 1: no such port"):
            tree.require_alive()
    finally:
        tree.stop()


def test_cpu_time_of_ended_children_counts(tmp_path: Path) -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(60)"
    tree = ProcessTree("parent", [sys.executable, "-c", script], log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not any(one.children_s >= 0.15 for one in tree.tree()):
            time.sleep(0.02)
        assert len(tree.tree()) == 1
        assert tree.cpu_s() >= 0.15
    finally:
        tree.stop()
