"""A run of named checks, as in ../lib/checks.mjs: a JSON line each, a summary line, an exit code."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

DEADLINE_S = 30.0


class Checks:
    """``about`` says which client, era and transport this run is; it is part of every line."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._about = about
        self._passed = 0
        self._failed = 0

    async def check(self, name: str, run: Callable[[], Awaitable[None]]) -> bool:
        started = time.monotonic()
        error: str | None = None
        try:
            with anyio.fail_after(DEADLINE_S):
                await run()
        except Exception as caught:
            error = describe(caught)
        self._report(name, error, started)
        return error is None

    def failed(self, name: str, caught: BaseException) -> None:
        self._report(name, describe(caught), time.monotonic())

    def finish(self) -> int:
        """Prints the summary; the exit code is 0 only if every check passed and there was one."""
        print(json.dumps({**self._about, "passed": self._passed, "failed": self._failed}), flush=True)
        return 0 if self._failed == 0 and self._passed > 0 else 1

    def _report(self, name: str, error: str | None, started: float) -> None:
        if error is None:
            self._passed += 1
        else:
            self._failed += 1
        line = {**self._about, "check": name, "ok": error is None, "ms": round((time.monotonic() - started) * 1000)}
        if error is not None:
            line["error"] = error
        print(json.dumps(line, ensure_ascii=False), flush=True)


def describe(caught: BaseException) -> str:
    if isinstance(caught, BaseExceptionGroup):
        return "; ".join(describe(one) for one in caught.exceptions)
    return clip(f"{type(caught).__name__}: {caught}")


def expect(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def equal(got: object, wanted: object, what: str) -> None:
    expect(got == wanted, f"{what}: got {clip(repr(got))}, wanted {clip(repr(wanted))}")


async def eventually(
    ask: Callable[[], Awaitable[object]], what: str, *, every: float = 0.1, within: float = 15.0
) -> None:
    """Asks until the answer is there; for what arrives on its own time."""
    end = time.monotonic() + within
    while not await ask():
        expect(time.monotonic() < end, f"{what}: not within {within} s")
        await anyio.sleep(every)


def clip(text: str) -> str:
    return f"{text[:300]}… ({len(text)} characters)" if len(text) > 300 else text
