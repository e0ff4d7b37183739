"""The PyPI package `fastmcp` as a client, unmodified and at its default time-outs. See plan.md."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

import steps


async def main() -> None:
    url, token, era, plan = sys.argv[1:5]
    transport = StreamableHttpTransport(url, headers={"Authorization": f"Bearer {token}"})
    mode = "legacy" if era == "legacy" else "2026-07-28"
    async with Client(transport, mode=mode) as client:
        steps.say("connected", revision=str(client.session.protocol_version))

        async def names() -> list[str]:
            return [tool.name for tool in await client.list_tools()]

        async def call(name: str, arguments: dict) -> dict:
            result = await client.call_tool(name, arguments, raise_on_error=False)
            return steps.plain(result.content, result.is_error, result.meta)

        await steps.run(json.loads(plan), names, call)


asyncio.run(main())
