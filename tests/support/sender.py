"""A process that sends webhooks as the leading relay does, to be killed: ``python -m tests.support.sender DATABASE_URL``."""

from __future__ import annotations

import asyncio
import sys

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.webhooks import SqlWebhooks
from orchestrator.adapters.webhook_http import HttpPoster
from orchestrator.app.deliveries import WebhookSender


async def main(url: str) -> None:
    engine = make_engine(url, pool_size=2, application="ota-sender")
    async with HttpPoster(10.0, "") as poster:
        await WebhookSender(SqlWebhooks(engine), poster, now=now_ms, dice=lambda: 0.5, poll_ms=20).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
