"""The PyPI package `mcp` as a client, unmodified and at its default time-outs. See plan.md."""

import asyncio
import json
import sys

from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

import steps


async def main() -> None:
    url, token, era, plan = sys.argv[1:5]
    # The library's own client with its own time-outs; only the header is ours.
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {token}"}) as http:
        transport = streamable_http_client(url, http_client=http)
        mode = "legacy" if era == "legacy" else "2026-07-28"
        async with Client(transport, mode=mode) as client:
            steps.say("connected", revision=str(client.session.protocol_version))

            async def names() -> list[str]:
                return [tool.name for tool in (await client.list_tools()).tools]

            async def call(name: str, arguments: dict) -> dict:
                result = await client.call_tool(name, arguments)
                return steps.plain(result.content, result.is_error, result.meta)

            await steps.run(json.loads(plan), names, call)


asyncio.run(main())
