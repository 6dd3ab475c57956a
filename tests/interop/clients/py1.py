"""The Python SDK of the legacy era, behind the interface that surface.py drives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.websocket import websocket_client
from pydantic import AnyUrl

NAME = "mcp 1.30.0"
TRANSPORTS = {"http": streamable_http_client, "sse": sse_client, "ws": websocket_client}
MIB = 1 << 20
# It writes JSON with every non-ASCII character escaped, so that 10 bytes become 25.
ESCAPES = {"ws"}


def largest_answer(transport: str, modern: bool) -> int:
    """The WebSocket client takes frames of at most 1 MiB, and the SDK offers no way to raise that."""
    return MIB if transport == "ws" else 3 * MIB


@asynccontextmanager
async def connect(target: Any, on: Any) -> AsyncIterator["Session"]:
    if target.era != "legacy":
        raise ValueError("this SDK speaks the legacy era only")

    async def elicit(_: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult.model_validate(on.elicit(plain(params)))

    async def sample(_: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult.model_validate(on.sample(plain(params)))

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult.model_validate(on.roots())

    async def log(params: Any) -> None:
        on.log(plain(params))

    async def handle(message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            match message.root:
                case types.ResourceUpdatedNotification(params=params):
                    on.updated(str(params.uri))
                case types.ToolListChangedNotification():
                    on.tools_changed()
                case types.PromptListChangedNotification():
                    on.prompts_changed()

    async with (
        TRANSPORTS[target.transport](target.url) as (read, write, *_),
        ClientSession(
            read,
            write,
            elicitation_callback=elicit,
            sampling_callback=sample,
            list_roots_callback=roots,
            logging_callback=log,
            message_handler=handle,
        ) as session,
    ):
        opened = await session.initialize()
        yield Session(session, opened.instructions)


class Session:
    modern = False

    def __init__(self, session: ClientSession, instructions: str | None) -> None:
        self._session = session
        self.instructions = instructions

    async def list_tools(self) -> dict[str, Any]:
        return plain(await self._session.list_tools())

    async def call_tool(self, name: str, args: dict[str, Any] | None = None, progress: Any = None) -> dict[str, Any]:
        return plain(await self._session.call_tool(name, args or {}, progress_callback=progress))

    async def cancel_at_first_progress(self, name: str, args: dict[str, Any]) -> None:
        """This SDK leaves it to the caller to tell the server."""
        progressed = anyio.Event()

        async def progress(*_: Any) -> None:
            progressed.set()

        request_id = self._session._request_id  # the one that the next request gets
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._call_to_be_cancelled, name, args, progress)
            await progressed.wait()
            cancelled = types.CancelledNotification(
                params=types.CancelledNotificationParams(requestId=request_id, reason="enough")
            )
            await self._session.send_notification(types.ClientNotification(cancelled))
            tasks.cancel_scope.cancel()

    async def _call_to_be_cancelled(self, name: str, args: dict[str, Any], progress: Any) -> None:
        try:
            await self.call_tool(name, args, progress)
        except Exception:  # servers differ in whether they answer a cancelled request
            return

    async def list_resources(self) -> dict[str, Any]:
        return plain(await self._session.list_resources())

    async def list_templates(self) -> dict[str, Any]:
        return plain(await self._session.list_resource_templates())

    async def read(self, uri: str) -> dict[str, Any]:
        return plain(await self._session.read_resource(AnyUrl(uri)))

    async def subscribe(self, uri: str) -> None:
        await self._session.subscribe_resource(AnyUrl(uri))

    async def unsubscribe(self, uri: str) -> None:
        await self._session.unsubscribe_resource(AnyUrl(uri))

    async def watch_lists(self) -> None:
        """A legacy server tells about its lists unasked."""

    async def list_prompts(self) -> dict[str, Any]:
        return plain(await self._session.list_prompts())

    async def get_prompt(self, name: str, args: dict[str, str]) -> dict[str, Any]:
        return plain(await self._session.get_prompt(name, args))

    async def complete(self, prompt: str, argument: str, value: str) -> dict[str, Any]:
        ref = types.PromptReference(type="ref/prompt", name=prompt)
        return plain(await self._session.complete(ref, {"name": argument, "value": value}))

    async def set_level(self, level: str) -> None:
        await self._session.set_logging_level(level)


def plain(model: Any) -> dict[str, Any]:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)
