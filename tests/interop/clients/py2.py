"""The dual-era Python SDK, behind the interface that surface.py drives."""

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import mcp_types as types
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged

NAME = "mcp 2.3.0"
TRANSPORTS = {"http": lambda url: url, "sse": sse_client}
MODES = {"legacy": "legacy", "auto": "auto", "modern": "2026-07-28"}
MIB = 1 << 20
ESCAPES: set[str] = set()


def largest_answer(transport: str, modern: bool) -> int:
    """The client takes events of at most 1 MiB, and the SDK offers no way to raise that.

    A modern answer over HTTP may come as JSON, which has no such limit; but a server, and the
    gateway for it, may also stream it, and a slow one it does.
    """
    return MIB


warnings.filterwarnings("ignore", message=".*2026-07-28.*")  # what the modern era removed is what the legacy era needs


@asynccontextmanager
async def connect(target: Any, on: Any) -> AsyncIterator["Session"]:
    async def elicit(_: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult.model_validate(on.elicit(plain(params)))

    async def sample(_: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult.model_validate(on.sample(plain(params)))

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult.model_validate(on.roots())

    async def log(params: Any) -> None:
        on.log(plain(params))

    async def handle(message: Any) -> None:
        match message:
            case types.ResourceUpdatedNotification(params=params):
                on.updated(str(params.uri))
            case types.ToolListChangedNotification():
                on.tools_changed()
            case types.PromptListChangedNotification():
                on.prompts_changed()

    client = Client(
        TRANSPORTS[target.transport](target.url),
        mode=MODES[target.era],
        elicitation_callback=elicit,
        sampling_callback=sample,
        list_roots_callback=roots,
        logging_callback=log,
        message_handler=handle,
    )
    async with client, anyio.create_task_group() as tasks:
        yield Session(client, on, tasks)
        tasks.cancel_scope.cancel()


class Session:
    def __init__(self, client: Client, on: Any, tasks: anyio.abc.TaskGroup) -> None:
        self._client = client
        self._on = on
        self._tasks = tasks
        self._listening: dict[str, anyio.CancelScope] = {}
        self._level: str | None = None
        self.modern = client.protocol_version == "2026-07-28"
        self.instructions = client.instructions

    async def list_tools(self) -> dict[str, Any]:
        return plain(await self._client.list_tools())

    async def call_tool(self, name: str, args: dict[str, Any] | None = None, progress: Any = None) -> dict[str, Any]:
        # A modern client asks for log lines with each request.
        meta = {"io.modelcontextprotocol/logLevel": self._level} if self.modern and self._level else None
        return plain(await self._client.call_tool(name, args or {}, progress_callback=progress, meta=meta))

    async def cancel_at_first_progress(self, name: str, args: dict[str, Any]) -> None:
        with anyio.CancelScope() as scope:

            async def progress(*_: Any) -> None:
                scope.cancel()

            await self.call_tool(name, args, progress)
        if not scope.cancelled_caught:
            raise AssertionError("the call was answered")

    async def list_resources(self) -> dict[str, Any]:
        return plain(await self._client.list_resources())

    async def list_templates(self) -> dict[str, Any]:
        return plain(await self._client.list_resource_templates())

    async def read(self, uri: str) -> dict[str, Any]:
        return plain(await self._client.read_resource(uri))

    async def subscribe(self, uri: str) -> None:
        if self.modern:
            self._listening[uri] = await self._tasks.start(self._listen, {"resource_subscriptions": [uri]})
        else:
            await self._client.subscribe_resource(uri)

    async def unsubscribe(self, uri: str) -> None:
        if self.modern:
            self._listening.pop(uri).cancel()
        else:
            await self._client.unsubscribe_resource(uri)

    async def watch_lists(self) -> None:
        if self.modern:
            await self._tasks.start(self._listen, {"tools_list_changed": True, "prompts_list_changed": True})

    async def _listen(self, wanted: dict[str, Any], *, task_status: Any) -> None:
        with anyio.CancelScope() as scope:
            async with self._client.listen(**wanted) as events:
                task_status.started(scope)
                async for event in events:
                    match event:
                        case ResourceUpdated(uri=uri):
                            self._on.updated(str(uri))
                        case ToolsListChanged():
                            self._on.tools_changed()
                        case PromptsListChanged():
                            self._on.prompts_changed()

    async def list_prompts(self) -> dict[str, Any]:
        return plain(await self._client.list_prompts())

    async def get_prompt(self, name: str, args: dict[str, str]) -> dict[str, Any]:
        return plain(await self._client.get_prompt(name, args))

    async def complete(self, prompt: str, argument: str, value: str) -> dict[str, Any]:
        ref = types.PromptReference(type="ref/prompt", name=prompt)
        return plain(await self._client.complete(ref, {"name": argument, "value": value}))

    async def set_level(self, level: str) -> None:
        self._level = level
        if not self.modern:
            await self._client.set_logging_level(level)


def plain(model: Any) -> dict[str, Any]:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)
