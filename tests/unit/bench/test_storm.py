from __future__ import annotations

import io

import httpx
from rich.console import Console

from tests.bench.reconnect import LAST, STATES, Device, _complete
from tests.bench.storm import LINES, Operator, Question, _drawn

ANSWER = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbody"


def test_an_answer_is_complete_with_the_last_byte_of_its_body():
    assert [_complete(ANSWER[:end]) is None for end in range(len(ANSWER))] == [True] * len(ANSWER)
    found = _complete(ANSWER)
    assert found is not None
    assert found[0] == "429"


def test_a_device_with_an_update_polls_starts_reports_every_state_and_polls_again():
    device = Device(5, 1_000_017)
    asked = []
    for device.step in range(LAST + 1):
        method, path, _ = device.request().split(b" ", 2)
        asked.append((method, path.removeprefix(b"/default/controller/v1/dev-00000005")))
    report = (b"POST", b"/deploymentBase/1000017/feedback")
    assert asked == [(b"GET", b""), (b"GET", b"/deploymentBase/1000017"), *[report] * len(STATES), (b"GET", b"")]


def test_a_device_without_an_update_only_polls():
    assert Device(5, None).request().startswith(b"GET /default/controller/v1/dev-00000005 HTTP/1.1\r\n")


async def test_a_question_counts_for_the_second_in_which_it_was_due_however_late_its_answer():
    async with httpx.AsyncClient() as http:
        asked = [Question(9.9, 5.0, 200), Question(10.0, 3_000.0, 200), Question(10.9, 7.0, 0)]
        assert Operator(http, ["/"], asked).between(10.0, 11.0) == [3_000.0, 7.0]


def test_a_long_curve_is_drawn_in_few_lines_that_add_up():
    rows = [
        {
            "at": at,
            "attempted": 2,
            "accepted": 1,
            "shed": 1,
            "errors": 0,
            "backlog": 99 - at,
            "api_p95_ms": None,
            "log_minus_projected": at,
        }
        for at in range(100)
    ]
    table = _drawn(rows)
    assert table.row_count <= LINES
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    asked = [int(line.split()[1]) for line in text.getvalue().splitlines()[1:]]
    assert sum(asked) == 200
