import pytest

from orchestrator.app.process import ProjectedFacts
from orchestrator.errors import UnavailableError


class Log:
    def __init__(self):
        self.ends = {0: 0, 1: 0}
        self.at = {}
        self.down = False
        self.looks = 0

    async def end_offsets(self):
        if self.down:
            raise UnavailableError
        return dict(self.ends)

    async def positions(self):
        self.looks += 1
        return dict(self.at)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def facts(log):
    return ProjectedFacts(log, log, patience_ms=0, look_ms=0)


async def test_an_empty_log_has_been_heard(facts):
    assert await facts.until(100) == 100


async def test_every_partition_has_to_reach_its_end(facts, log):
    log.ends, log.at = {0: 5, 1: 3}, {0: 5}
    assert await facts.until(100) == 0
    log.at[1] = 2
    assert await facts.until(110) == 0
    log.at[1] = 3
    assert await facts.until(120) == 120


async def test_a_sample_counts_for_the_moment_it_was_taken(facts, log):
    log.ends, log.at = {0: 5}, {0: 4}
    assert await facts.until(100) == 0
    log.ends, log.at = {0: 9}, {0: 5}
    assert await facts.until(200) == 100


async def test_a_projection_that_always_lags_still_lets_time_pass(facts, log):
    heard = []
    for tick in range(1, 20):
        log.ends, log.at = {0: tick * 10}, {0: tick * 10 - 25}
        heard.append(await facts.until(tick))
    assert heard == sorted(heard)
    assert all(tick - until <= 6 for tick, until in enumerate(heard, start=1) if tick > 6)


async def test_time_stands_still_without_the_broker(facts, log):
    assert await facts.until(100) == 100
    log.down = True
    assert await facts.until(200) == 100


async def test_what_was_heard_is_never_taken_back(facts, log):
    assert await facts.until(100) == 100
    log.ends = {0: 5}
    assert await facts.until(90) == 90
    assert await facts.until(110) == 100


async def test_one_look_waits_for_a_projection_that_is_about_to_pass(log):
    facts = ProjectedFacts(log, log, patience_ms=10_000, look_ms=1)
    log.ends, log.at = {0: 3}, {0: 0}
    counted = log.positions

    async def moving():
        log.at[0] += 1
        return await counted()

    log.positions = moving
    assert await facts.until(100) == 100
    assert log.looks == 3
