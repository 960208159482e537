"""When probes speak."""

import asyncio

import pytest

from tools.envtest import probes
from tools.envtest.podspec import ProbeSpec


def spec(*, success=1, failure=3, period_s=0.0):
    return ProbeSpec({}, 0.0, period_s, 1.0, success, failure)


def scripted(answers):
    """A probe that gives these answers, then never any more."""
    left = iter(answers)

    async def probe(_):
        answer = next(left, None)
        if answer is None:
            await asyncio.Event().wait()
        return answer

    return probe


async def verdicts(answers, **thresholds):
    told = []
    work = asyncio.create_task(probes.keep_probing(spec(**thresholds), scripted(answers), told.append, eager=False))
    for _ in range(4 * len(answers) + 4):
        await asyncio.sleep(0)
    work.cancel()
    return told


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([True], [True]),
        ([False, False], []),
        ([False, False, False], [False]),
        ([False, False, True, False, False], [True]),
        ([True, False, False, False, True], [True, False, True]),
    ],
)
async def test_failure_threshold(answers, told):
    assert await verdicts(answers) == told


async def test_success_threshold():
    assert await verdicts([True, False, True, True], success=2) == [True]


async def test_startup():
    assert await probes.until_started(spec(), scripted([True])) is True
    assert await probes.until_started(spec(failure=0), scripted([False])) is False
