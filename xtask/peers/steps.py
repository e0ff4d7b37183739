"""What the Python clients do once they are connected, whatever library connected them. See plan.md."""

import asyncio
import json
import time


def say(step: str, **facts) -> None:
    print(json.dumps({"step": step, **facts}), flush=True)


def plain(content, is_error, meta) -> dict:
    text = "\n".join(getattr(block, "text", "") for block in content or [])
    return {"text": text, "error": bool(is_error), "meta": dict(meta or {})}


async def run(plan: dict, names, call) -> None:
    found = await names()
    say("list", ok=all(name in found for name in plan["expect"]), tools=found)
    await asyncio.gather(*(server(name, todo, call) for name, todo in plan["servers"].items()))


async def server(name: str, todo: dict, call) -> None:
    await step("read", name, call, todo["read"])
    await asyncio.gather(step("while", name, call, todo["while"]), late(name, call, todo["late"]))


async def step(kind: str, server: str, call, what: dict) -> dict:
    start = time.monotonic()
    try:
        result = await call(what["name"], what["arguments"])
        ok = not result["error"]
    except Exception as error:  # every failure is a finding, whatever the library raises
        result, ok = {"text": f"{type(error).__name__}: {error}", "error": True, "meta": {}}, False
    say(kind, server=server, ok=ok, seconds=round(time.monotonic() - start, 2), text=result["text"], meta=result["meta"])
    return result


async def late(server: str, call, what: dict) -> None:
    pending = (await step("gave-up", server, call, what))["meta"].get("dev.countersign/pending") or {}
    arguments = {"request_id": pending.get("request_id", "")}
    await step("late", server, call, {"name": "await_approval", "arguments": arguments})
