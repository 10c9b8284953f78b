"""Selectors in SQL against selectors in Python, on a fleet of awkward values."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.filters import compile_query
from orchestrator.domain.query import matches, parse
from tests.support.queries import NUMBERS, VERSIONS, WORDS, Device, queries

DICE = Random(20_261)
FLEET = [
    Device(
        device_id=f"d{number}" if number % 3 else DICE.choice(WORDS),
        hardware_model=DICE.choice(WORDS),
        version=DICE.choice((None, *WORDS, *VERSIONS, *VERSIONS)),
        attributes={name: DICE.choice((*WORDS, *NUMBERS)) for name in ("x", "y", "x.y-z") if DICE.random() < 0.7},
    )
    for number in range(200)
]


@pytest.fixture
async def selected(engine):
    """Numbers of the devices that a query selects in the database."""
    async with transaction(engine) as conn:
        await conn.copy_records_to_table(
            "device",
            columns=("device_no", "device_id", "hardware_model", "version", "attributes", "registered_at"),
            records=[
                (number, device.device_id, device.hardware_model, device.version, json.dumps(device.attributes), 0)
                for number, device in enumerate(FLEET)
            ],
        )

    async def select(query) -> set[int]:
        condition, parameters = compile_query(query, 1)
        async with transaction(engine) as conn:
            rows = await conn.fetch(f"SELECT device_no FROM device WHERE {condition}", *parameters)
        return {row["device_no"] for row in rows}

    return select


async def test_sql_selects_what_python_selects(selected):
    """Three hundred generated selectors, drawn anew in every run."""
    drawn: list = []

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(queries)
    def draw(query) -> None:
        drawn.append(query)

    draw()
    chosen = 0
    for query in drawn:
        expected = {number for number, device in enumerate(FLEET) if matches(query, device)}
        assert await selected(query) == expected, query
        chosen += 0 < len(expected) < len(FLEET)
    assert chosen > len(drawn) / 4  # most selectors that match all or none would compare nothing


async def test_a_selector_cannot_break_out_of_its_parameter(selected):
    assert await selected(parse("""device_id=="'; DROP TABLE device; --" """)) == set()
    assert await selected(parse("device_id!=nobody")) == set(range(len(FLEET)))
