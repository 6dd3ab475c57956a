"""Everything an MCP session can do, exercised once through an SDK and asserted.

The same checks as surface.mjs; ``connect`` (py1.py, py2.py) makes the SDKs one interface.
"""

import base64
import hashlib
import itertools
import json
import random
from typing import Any

import anyio
from checks import Checks, equal, eventually, expect

NON_ASCII = 'Grüße, 世界 🌍 \u2028\u0000\t"\\ é (e\u0301)'
MIB = 1 << 20


class Seen:
    """What the server sent or asked, and how the user answers."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.uris: list[str] = []
        self.tools = 0
        self.prompts = 0
        self.elicited: list[dict[str, Any]] = []
        self.answer: Any = lambda _: {
            "action": "accept",
            "content": {"username": "Jürgen", "email": "j@example.org"},
        }

    def log(self, params: dict[str, Any]) -> None:
        self.logs.append(params)

    def updated(self, uri: str) -> None:
        self.uris.append(uri)

    def tools_changed(self) -> None:
        self.tools += 1

    def prompts_changed(self) -> None:
        self.prompts += 1

    def elicit(self, params: dict[str, Any]) -> dict[str, Any]:
        self.elicited.append(params)
        return self.answer(params)

    def sample(self, params: dict[str, Any]) -> dict[str, Any]:
        content = params["messages"][0]["content"]
        text = f"sampled: {content['text']}"
        return {"model": "none", "role": "assistant", "content": {"type": "text", "text": text}}

    def roots(self) -> dict[str, Any]:
        return {"roots": [{"uri": "file:///interop/wurzel", "name": "Wurzel"}]}


async def check_surface(checks: Checks, sdk: Any, target: Any) -> None:
    seen = Seen()
    try:
        with anyio.fail_after(300):
            async with sdk.connect(target, seen) as session:
                await Surface(checks, sdk, target, session, seen).run()
    except BaseException as caught:  # a transport that dies takes its task group with it
        checks.failed("the connection lives from start to end", caught)


class Surface:
    def __init__(self, checks: Checks, sdk: Any, target: Any, session: Any, seen: Seen) -> None:
        self.checks = checks
        self.sdk = sdk
        self.target = target
        self.session = session
        self.seen = seen
        # Room for the JSON around the value.
        self.largest = sdk.largest_answer(target.transport, session.modern) - 1000

    async def run(self) -> None:
        self.tools = {tool["name"]: tool for tool in (await self.session.list_tools())["tools"]}
        for name, check in self.plan():
            await self.checks.check(name, check)

    def plan(self) -> list[tuple[str, Any]]:
        modern = self.session.modern
        several = "test_input_required_result_multi_round" in self.tools
        http = self.target.transport == "http"
        every = [
            ("era", self.era, True),
            ("instructions keep their characters", self.instructions, True),
            ("list tools", self.list_tools, True),
            ("call a tool", self.call, True),
            ("call: non-ASCII both ways", self.non_ascii, True),
            ("call: an error of the tool", self.tool_error, True),
            ("call: content of each type", self.content, True),
            ("large argument (3 MiB)", self.large_argument, True),
            ("large argument and answer", self.large, True),
            ("large non-ASCII argument and answer", self.large_non_ascii, True),
            ("large answer to a small call", self.big, True),
            ("progress arrives in order", self.progress, True),
            ("cancellation reaches the server", self.cancellation, True),
            ("50 calls at once on one session", self.many, True),
            ("50 slow calls at once, each with its own progress", self.many_slow, True),
            ("a session keeps its state, and to itself", self.state, not modern),
            ("resources: list, read, template, unknown", self.resources, True),
            ("resources: subscribe, updated, unsubscribe", self.subscriptions, True),
            ("list_changed of tools and prompts", self.list_changed, True),
            ("prompts: list, get", self.prompts, True),
            ("completion", self.completion, True),
            ("elicitation: accepted and declined", self.elicitation, True),
            ("sampling", self.sampling, True),
            ("rounds of questions with state, and roots", self.rounds, several),
            ("20 conversations at once", self.conversations, True),
            ("logging follows the level", self.logging, True),
            (
                "an answer after the server closed the stream",
                self.reconnection,
                "test_reconnection" in self.tools and not modern and http,
            ),
        ]
        return [(name, check) for name, check, applies in every if applies]

    async def said(self, name: str, args: dict[str, Any] | None = None, progress: Any = None) -> str:
        return text_of(await self.session.call_tool(name, args, progress))

    async def era(self) -> None:
        wanted = self.target.expect_era or self.target.era
        if wanted != "auto":
            equal("modern" if self.session.modern else "legacy", wanted, "era")

    async def instructions(self) -> None:
        # A pinned modern client skips server/discover, which is where instructions are.
        if self.session.modern and self.target.era == "modern":
            return
        wanted = "A server that exists to be tested. Grüße, 世界 🌍."
        equal(self.session.instructions, wanted, "instructions")

    async def list_tools(self) -> None:
        for wanted in ["echo", "big", "slow", "count", "dynamic", "test_simple_text"]:
            expect(wanted in self.tools, f"{wanted} is not listed")
        equal(self.tools["echo"].get("annotations", {}).get("readOnlyHint"), True, "readOnlyHint of echo")

    async def call(self) -> None:
        equal(await self.said("test_simple_text"), "This is a simple text response for testing.", "text")

    async def non_ascii(self) -> None:
        equal(await self.said("echo", {"value": NON_ASCII}), NON_ASCII, "echo")

    async def tool_error(self) -> None:
        result = await self.session.call_tool("test_error_handling")
        equal(result.get("isError"), True, "isError")
        expect("intentionally returns an error" in text_of(result), text_of(result))

    async def content(self) -> None:
        result = await self.session.call_tool("test_multiple_content_types")
        equal([part["type"] for part in result["content"]], ["text", "image", "resource"], "types")

    async def large_argument(self) -> None:
        piece = "x" if self.target.transport in self.sdk.ESCAPES else "aä世🌍"
        value = piece * (3 * MIB // len(piece.encode()))
        digest = hashlib.sha256(value.encode()).hexdigest()
        equal(await self.said("measure", {"value": value}), f"{len(value.encode())} bytes {digest}", "measure")

    async def large(self) -> None:
        await self.echo_back("x" * (self.largest))

    async def large_non_ascii(self) -> None:
        await self.echo_back("aä世🌍" * (self.largest // 10))  # 10 bytes a piece

    async def echo_back(self, value: str) -> None:
        answer = await self.said("echo", {"value": value})
        expect(answer == value, f"{len(answer)} characters came back of {len(value)}")

    async def big(self) -> None:
        size = self.largest
        equal(len(await self.said("big", {"bytes": size})), size, "length")

    async def slowly(self, count: int, ms: int) -> list[tuple[float, float | None, str | None]]:
        """Calls ``slow``, which answers only once the last step was seen."""
        key = f"slow-{unique()}"
        steps: list[tuple[float, float | None, str | None]] = []
        last = anyio.Event()

        async def on(progress: float, total: float | None, message: str | None) -> None:
            steps.append((progress, total, message))
            if progress == count:
                last.set()

        async def let_go() -> None:
            await last.wait()
            await self.said("let_go", {"key": key})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_go)
            answer = await self.said("slow", {"key": key, "steps": count, "ms": ms, "hold": True}, on)
            if not last.is_set():
                tasks.cancel_scope.cancel()
        equal(answer, f"finished {count} steps", "answer")
        equal([step[0] for step in steps], list(range(1, count + 1)), "progress")
        return steps

    async def progress(self) -> None:
        steps = await self.slowly(8, 20)
        equal(steps[1], (2, 8, "Schritt 2 von 8 – 第2步"), "second step")

    async def cancellation(self) -> None:
        key = f"cancel-{unique()}"
        await self.session.cancel_at_first_progress("slow", {"key": key, "steps": 200, "ms": 100})

        async def cancelled() -> bool:
            return await self.said("slow_state", {"key": key}) == "cancelled"

        await eventually(cancelled, "the server saw the cancellation")

    async def many(self) -> None:
        values = [f"{at}-{NON_ASCII}" for at in range(50)]
        equal(await gather(*((self.said, "echo", {"value": value}) for value in values)), values, "answers")

    async def many_slow(self) -> None:
        await gather(*((self.slowly, 3, 30) for _ in range(50)))

    async def state(self) -> None:
        equal([await self.said("count") for _ in range(3)], ["1", "2", "3"], "first session")
        async with self.sdk.connect(self.target, Seen()) as other:
            equal(text_of(await other.call_tool("count")), "1", "second session")
        equal(await self.said("count"), "4", "first session again")

    async def resources(self) -> None:
        listed = (await self.session.list_resources())["resources"]
        expect(any(one["uri"] == "test://static-text" for one in listed), "static-text is not listed")
        templates = (await self.session.list_templates())["resourceTemplates"]
        equal([one["uriTemplate"] for one in templates], ["test://template/{id}/data"], "templates")

        async def read(uri: str) -> dict[str, Any]:
            return (await self.session.read(uri))["contents"][0]

        text = (await read("test://static-text"))["text"]
        equal(text, "This is the content of the static text resource.", "text")
        equal(base64.b64decode((await read("test://static-binary"))["blob"])[1:4], b"PNG", "blob")
        equal(json.loads((await read("test://template/a%C3%A4/data"))["text"])["templateTest"], True, "template")
        try:
            await read("test://nowhere")
        except Exception:
            return
        raise AssertionError("an unknown resource was read")

    async def subscriptions(self) -> None:
        uri = "test://watched-resource"
        await self.session.subscribe(uri)

        async def told() -> bool:
            await self.said("touch", {"uri": uri})
            return uri in self.seen.uris

        # A stream for the server's own messages may open a moment after the session does.
        await eventually(told, "resources/updated", every=0.2)
        await self.session.unsubscribe(uri)

        async def silent() -> bool:
            before = len(self.seen.uris)
            await self.said("touch", {"uri": uri})
            await anyio.sleep(0.2)
            return len(self.seen.uris) == before

        await eventually(silent, "no more resources/updated")

    async def list_changed(self) -> None:
        await self.session.watch_lists()

        async def revision() -> str:
            tools = (await self.session.list_tools())["tools"]
            return next(tool["description"] for tool in tools if tool["name"] == "dynamic")

        before = await revision()

        async def tools_told() -> bool:
            await self.said("test_trigger_tool_change")
            return self.seen.tools > 0

        await eventually(tools_told, "tools/list_changed", every=0.2)
        expect(await revision() != before, "the list of tools is still the old one")

        async def prompts_told() -> bool:
            await self.said("test_trigger_prompt_change")
            return self.seen.prompts > 0

        await eventually(prompts_told, "prompts/list_changed", every=0.2)

    async def prompts(self) -> None:
        listed = (await self.session.list_prompts())["prompts"]
        expect(any(one["name"] == "test_simple_prompt" for one in listed), "test_simple_prompt is not listed")
        got = await self.session.get_prompt("test_prompt_with_arguments", {"arg1": "grün", "arg2": "世界"})
        text = got["messages"][0]["content"]["text"]
        equal(text, "Prompt with arguments: arg1='grün', arg2='世界'", "text")

    async def completion(self) -> None:
        async def ask(value: str) -> list[str]:
            answer = await self.session.complete("test_prompt_with_arguments", "arg1", value)
            return answer["completion"]["values"]

        equal(await ask("par"), ["paris", "park", "party"], "values")
        equal(await ask("pä"), ["pärnu"], "non-ASCII value")

    async def elicitation(self) -> None:
        accepted = await self.said("test_elicitation", {"message": "Wer? 谁?"})
        equal(self.seen.elicited[-1]["message"], "Wer? 谁?", "message")
        expect("accept" in accepted and "Jürgen" in accepted, accepted)
        self.seen.answer = lambda _: {"action": "decline"}
        declined = await self.said("test_elicitation", {"message": "Again?"})
        expect("decline" in declined, declined)

    async def sampling(self) -> None:
        answer = await self.said("test_sampling", {"prompt": "Sag «hallo» 👋"})
        equal(answer, "LLM response: sampled: Sag «hallo» 👋", "answer")

    async def rounds(self) -> None:
        def answer(params: dict[str, Any]) -> dict[str, Any]:
            field = next(iter(params["requestedSchema"]["properties"]))
            return {"action": "accept", "content": {field: True if field == "ok" else f"a {field}"}}

        self.seen.answer = answer
        equal(await self.said("test_input_required_result_multi_round"), "a name likes a color", "three rounds")
        equal(await self.said("test_input_required_result_request_state"), "state-ok", "state")
        equal(await self.said("test_input_required_result_list_roots"), "Roots: file:///interop/wurzel", "roots")

    async def conversations(self) -> None:
        answers = await gather(*((self.said, "test_sampling", {"prompt": f"number {at}"}) for at in range(20)))
        equal(answers, [f"LLM response: sampled: number {at}" for at in range(20)], "answers")

    async def logging(self) -> None:
        wanted = {"warning": ["warning", "error"], "debug": ["debug", "info", "warning", "error"]}
        for level, levels in wanted.items():
            await self.session.set_level(level)
            self.seen.logs.clear()
            await self.said("log_all")

            async def enough(count: int = len(levels)) -> bool:
                return len(self.seen.logs) >= count

            await eventually(enough, f"{len(levels)} lines at {level}")
            equal([line["level"] for line in self.seen.logs], levels, f"levels at {level}")

    async def reconnection(self) -> None:
        answer = await self.said("test_reconnection")
        equal(answer, "The answer that came after the stream was closed.", "answer")


async def gather(*calls: tuple[Any, ...]) -> list[Any]:
    """Runs all calls at once; their results in order."""
    results: dict[int, Any] = {}

    async def one(at: int, call: tuple[Any, ...]) -> None:
        results[at] = await call[0](*call[1:])

    async with anyio.create_task_group() as tasks:
        for at, call in zip(itertools.count(), calls):
            tasks.start_soon(one, at, call)
    return [results[at] for at in range(len(calls))]


def text_of(result: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in result["content"])


def unique() -> str:
    return f"{random.getrandbits(64):x}"
