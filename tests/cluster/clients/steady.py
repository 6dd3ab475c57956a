"""Calls two servers steadily with a Python SDK and prints what became of every call, a JSON line each.

    steady.py --base URL --era legacy|modern --name NAME

Runs until standard input ends. The SDK is the one of the interpreter's virtual environment, driven
through the interop tests' adapters. Prints {"ready": NAME} once both sessions are open.
"""

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "interop" / "clients"))

DEADLINE_S = 35.0
PAUSE_S = 0.1
STEPS = 12


class Target:
    transport = "http"

    def __init__(self, url: str, era: str) -> None:
        self.url = url
        self.era = era


class On:
    """Nothing is asked of this client."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: {}


class Steady:
    def __init__(self, sdk: Any, base: str, era: str, name: str) -> None:
        self._sdk = sdk
        self._base = base
        self._era = era
        self._name = name
        self._number = 0
        self._open: set[str] = set()
        self._stopped = False

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_stdin)
            tasks.start_soon(self._lane, "count", self._quick)
            tasks.start_soon(self._lane, "stream", self._streamed)

    async def _watch_stdin(self) -> None:
        await anyio.to_thread.run_sync(sys.stdin.read)
        self._stopped = True

    async def _lane(self, server: str, call: Any) -> None:
        """Calls in one session for as long as it lives; a session that dies is counted and replaced."""
        while not self._stopped:
            started = time.monotonic()
            how = "unopened"
            try:
                async with self._sdk.connect(Target(f"{self._base}/mcp/{server}", self._era), On()) as session:
                    await session.list_tools()
                    how = "died"
                    self._open.add(server)
                    if len(self._open) == 2:
                        say({"ready": self._name})
                        self._open.add("said")
                    while not self._stopped:
                        await call(session)
                        await anyio.sleep(PAUSE_S)
            except BaseException as caught:
                if isinstance(caught, KeyboardInterrupt | SystemExit):
                    raise
                say({"kind": "session", "how": how, "message": words(caught), "ms": since(started)})
                await anyio.sleep(0.5)

    async def _quick(self, session: Any) -> None:
        self._number += 1
        key = f"{self._name}-{self._number}"
        if self._number % 2:
            await self._call(session, "read", "echo", {"text": key}, key)
        else:
            await self._call(session, "write", "write", {"key": key}, f"write {key}: execution 1", key)

    async def _streamed(self, session: Any) -> None:
        await self._call(session, "stream", "slow", {"ms": 1200, "steps": STEPS}, "slept 1200 ms")

    async def _call(
        self, session: Any, kind: str, tool: str, args: dict[str, Any], expect: str, key: str | None = None
    ) -> None:
        line: dict[str, Any] = {"kind": kind, "key": key}
        numbers: list[int] = []

        async def progress(value: float, *_: Any) -> None:
            numbers.append(int(value))

        started = time.monotonic()
        try:
            with anyio.fail_after(DEADLINE_S):
                answer = await session.call_tool(tool, args, progress if kind == "stream" else None)
            right = expect in json.dumps(answer)
            line["how"] = "result" if right else "wrong"
            if not right:
                line["message"] = json.dumps(answer)[:300]
            elif kind == "stream":
                line["missing"] = len(set(range(1, STEPS + 1)) - set(numbers))
                line["doubled"] = len(numbers) - len(set(numbers))
        except TimeoutError:
            line["how"] = "nothing"
        except Exception as caught:
            line |= {"how": "error", "code": code(caught), "message": words(caught)}
        line["ms"] = since(started)
        say(line)


def code(caught: BaseException) -> int | None:
    error = getattr(caught, "error", caught)
    found = getattr(error, "code", None)
    return found if isinstance(found, int) else None


def words(caught: BaseException) -> str:
    if isinstance(caught, BaseExceptionGroup):
        return "; ".join(words(inner) for inner in caught.exceptions)
    return f"{type(caught).__name__}: {caught}"[:300]


def since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--era", choices=["legacy", "modern"], required=True)
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    line = importlib.metadata.version("mcp").split(".")[0]
    sdk = importlib.import_module(f"py{line}")
    anyio.run(Steady(sdk, options.base, options.era, options.name).run)


if __name__ == "__main__":
    main()
