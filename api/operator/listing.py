"""One way to answer every list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request, Response

from api.deps import PageQuery
from api.operator.models import Listed
from api.operator.services import OperatorServices
from api.paging import next_link
from orchestrator.app.queries import Key, Page

S = TypeVar("S")
T = TypeVar("T")


async def listed(
    request: Request,
    response: Response,
    services: OperatorServices,
    query: PageQuery,
    make: Callable[[S], T],
    read: Callable[[int, Key | None], Awaitable[Page[S]]],
) -> Listed[T]:
    """Read the page after the query's cursor; `next` in the body and in the header Link.

    Everything in the query but ``limit`` and ``cursor`` is the filter that a cursor is bound to, and so is the path.
    """
    path = request.url.path
    filters = query.model_dump(mode="json", exclude={"limit", "cursor"})
    page = await read(query.limit, services.cursors.decode(query.cursor, path, filters))
    following = None if page.after is None else services.cursors.encode(page.after, path, filters)
    if following is not None:
        response.headers["Link"] = next_link(request.url, following)
    return Listed(items=[make(item) for item in page.items], next=following)
