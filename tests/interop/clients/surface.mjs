// Everything an MCP session can do, exercised once through an SDK and asserted. The SDKs differ in
// their interfaces; `connect` (ts1.mjs, ts2.mjs) makes them one. surface.py is the same for Python.

import { createHash } from 'node:crypto';
import { equal, eventually, expect } from '../lib/checks.mjs';

export const NON_ASCII = 'Grüße, 世界 🌍 \u2028\u0000\t"\\ é (e\u0301)';
const MIB = 1 << 20;

export async function checkSurface(checks, connect, target) {
    const seen = { logs: [], updated: [], tools: 0, prompts: 0, elicited: [], sampled: [] };
    let answerElicit = () => ({ action: 'accept', content: { username: 'Jürgen', email: 'j@example.org' } });
    const on = {
        log: (params) => seen.logs.push(params),
        updated: (uri) => seen.updated.push(uri),
        toolsChanged: () => seen.tools++,
        promptsChanged: () => seen.prompts++,
        elicit: (params) => (seen.elicited.push(params), answerElicit(params)),
        sample: (params) => {
            seen.sampled.push(params);
            return { model: 'none', role: 'assistant', content: { type: 'text', text: `sampled: ${params.messages[0].content.text}` } };
        },
        roots: () => ({ roots: [{ uri: 'file:///interop/wurzel', name: 'Wurzel' }] }),
    };

    let session;
    const connected = await checks.check('connect', async () => {
        session = await connect(target, on);
        if (target.era !== 'auto') equal(session.era, target.era, 'era');
        if (target.expectEra) equal(session.era, target.expectEra, 'negotiated era');
    });
    if (!connected) return;
    const { client } = session;
    const modern = session.era === 'modern';
    const said = async (name, args, options) => textOf(await session.callTool(name, args, options));
    let tools = [];

    await checks.check('instructions keep their characters', async () => {
        equal(session.instructions(), 'A server that exists to be tested. Grüße, 世界 🌍.', 'instructions');
    });
    await checks.check('list tools', async () => {
        ({ tools } = await client.listTools());
        for (const wanted of ['echo', 'big', 'slow', 'count', 'dynamic', 'test_simple_text']) {
            expect(tools.some((tool) => tool.name === wanted), `${wanted} is not listed`);
        }
        equal(tools.find((tool) => tool.name === 'echo').annotations?.readOnlyHint, true, 'readOnlyHint of echo');
    });
    const has = (name) => tools.some((tool) => tool.name === name);

    await checks.check('call a tool', async () => {
        equal(await said('test_simple_text'), 'This is a simple text response for testing.', 'text');
    });
    await checks.check('call: non-ASCII both ways', async () => {
        equal(await said('echo', { value: NON_ASCII }), NON_ASCII, 'echo');
    });
    await checks.check('call: an error of the tool', async () => {
        const result = await session.callTool('test_error_handling');
        equal(result.isError, true, 'isError');
        expect(textOf(result).includes('intentionally returns an error'), textOf(result));
    });
    await checks.check('call: content of each type', async () => {
        const { content } = await session.callTool('test_multiple_content_types');
        equal(content.map((part) => part.type), ['text', 'image', 'resource'], 'types');
    });

    await checks.check('large argument (3 MiB)', async () => {
        const value = 'aä世🌍'.repeat(Math.floor((3 * MIB) / 10));
        const digest = createHash('sha256').update(value).digest('hex');
        equal(await said('measure', { value }), `${Buffer.byteLength(value)} bytes ${digest}`, 'measure');
    });
    await checks.check('large argument and answer', async () => {
        const value = 'x'.repeat(3 * MIB);
        const answer = await said('echo', { value });
        expect(answer === value, `${answer.length} characters came back of ${value.length}`);
    });
    await checks.check('large non-ASCII argument and answer', async () => {
        const piece = 'aä世🌍'; // 10 bytes
        const value = piece.repeat(Math.floor((3 * MIB) / 10));
        const answer = await said('echo', { value });
        expect(answer === value, `${answer.length} characters came back of ${value.length}`);
    });
    await checks.check('large answer to a small call', async () => {
        const bytes = 3 * MIB;
        equal((await said('big', { bytes })).length, bytes, 'length');
    });

    /** Calls `slow`, which answers only once the last step was seen: the SDKs drop progress that is read with the answer. */
    const slowly = async (steps, ms) => {
        const key = `slow-${unique()}`;
        const seen = [];
        let letGo;
        const answer = await said('slow', { key, steps, ms, hold: true }, {
            onprogress: ({ progress, total, message }) => {
                seen.push({ progress, total, message });
                if (progress === steps) letGo = session.callTool('let_go', { key });
            },
        });
        await letGo;
        equal(answer, `finished ${steps} steps`, 'answer');
        equal(seen.map(({ progress }) => progress), Array.from({ length: steps }, (_, at) => at + 1), 'progress');
        return seen;
    };
    await checks.check('progress arrives in order', async () => {
        const seen = await slowly(8, 20);
        equal(seen[1], { progress: 2, total: 8, message: 'Schritt 2 von 8 – 第2步' }, 'second step');
    });
    await checks.check('cancellation reaches the server', async () => {
        const key = `cancel-${unique()}`;
        const stop = new AbortController();
        const call = session.callTool('slow', { key, steps: 200, ms: 100 }, {
            signal: stop.signal,
            onprogress: () => stop.abort('enough'),
        });
        await call.then(
            () => expect(false, 'the cancelled call was answered'),
            () => {},
        );
        await eventually(async () => (await said('slow_state', { key })) === 'cancelled', 'the server saw the cancellation');
    });
    await checks.check('50 calls at once on one session', async () => {
        const values = Array.from({ length: 50 }, (_, at) => `${at}-${NON_ASCII}`);
        equal(await Promise.all(values.map((value) => said('echo', { value }))), values, 'answers');
    });
    await checks.check('50 slow calls at once, each with its own progress', async () => {
        await Promise.all(Array.from({ length: 50 }, () => slowly(3, 30)));
    });
    if (!modern) {
        await checks.check('a session keeps its state, and to itself', async () => {
            equal([await said('count'), await said('count'), await said('count')], ['1', '2', '3'], 'first session');
            const other = await connect(target, on);
            equal(textOf(await other.callTool('count')), '1', 'second session');
            await other.close();
            equal(await said('count'), '4', 'first session again');
        });
    }

    await checks.check('resources: list, read, template, unknown', async () => {
        const { resources } = await client.listResources();
        expect(resources.some(({ uri }) => uri === 'test://static-text'), 'static-text is not listed');
        const { resourceTemplates } = await client.listResourceTemplates();
        equal(resourceTemplates.map(({ uriTemplate }) => uriTemplate), ['test://template/{id}/data'], 'templates');
        const read = async (uri) => (await client.readResource({ uri })).contents[0];
        equal((await read('test://static-text')).text, 'This is the content of the static text resource.', 'text');
        expect(Buffer.from((await read('test://static-binary')).blob, 'base64').subarray(1, 4).equals(Buffer.from('PNG')), 'not a PNG');
        equal(JSON.parse((await read('test://template/a%C3%A4/data')).text).templateTest, true, 'template');
        const error = await client.readResource({ uri: 'test://nowhere' }).then(
            () => undefined,
            (caught) => caught,
        );
        expect(error, 'an unknown resource was read');
    });
    await checks.check('resources: subscribe, updated, unsubscribe', async () => {
        const uri = 'test://watched-resource';
        await session.subscribe(uri);
        // A stream for the server's own messages may open a moment after the session does.
        await eventually(async () => {
            await said('touch', { uri });
            return seen.updated.includes(uri);
        }, 'resources/updated', { every: 200 });
        await session.unsubscribe(uri);
        await eventually(async () => {
            const before = seen.updated.length;
            await said('touch', { uri });
            await new Promise((done) => setTimeout(done, 200));
            return seen.updated.length === before;
        }, 'no more resources/updated', { every: 0 });
    });
    await checks.check('list_changed of tools and prompts', async () => {
        await session.watchLists();
        const revision = async () => (await client.listTools()).tools.find((tool) => tool.name === 'dynamic').description;
        const before = await revision();
        await eventually(async () => {
            await said('test_trigger_tool_change');
            return seen.tools > 0;
        }, 'tools/list_changed', { every: 200 });
        expect((await revision()) !== before, 'the list of tools is still the old one');
        await eventually(async () => {
            await said('test_trigger_prompt_change');
            return seen.prompts > 0;
        }, 'prompts/list_changed', { every: 200 });
    });

    await checks.check('prompts: list, get', async () => {
        const { prompts } = await client.listPrompts();
        expect(prompts.some(({ name }) => name === 'test_simple_prompt'), 'test_simple_prompt is not listed');
        const { messages } = await client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'grün', arg2: '世界' } });
        equal(messages[0].content.text, "Prompt with arguments: arg1='grün', arg2='世界'", 'text');
    });
    await checks.check('completion', async () => {
        const ref = { type: 'ref/prompt', name: 'test_prompt_with_arguments' };
        const ask = async (value) => (await session.complete({ ref, argument: { name: 'arg1', value } })).completion.values;
        equal(await ask('par'), ['paris', 'park', 'party'], 'values');
        equal(await ask('pä'), ['pärnu'], 'non-ASCII value');
    });

    await checks.check('elicitation: accepted and declined', async () => {
        const accepted = await said('test_elicitation', { message: 'Wer? 谁?' });
        equal(seen.elicited.at(-1).message, 'Wer? 谁?', 'message');
        expect(accepted.includes('accept') && accepted.includes('Jürgen'), accepted);
        answerElicit = () => ({ action: 'decline' });
        const declined = await said('test_elicitation', { message: 'Again?' });
        expect(declined.includes('decline'), declined);
    });
    await checks.check('sampling', async () => {
        equal(await said('test_sampling', { prompt: 'Sag «hallo» 👋' }), 'LLM response: sampled: Sag «hallo» 👋', 'answer');
    });
    if (has('test_input_required_result_multi_round')) {
        await checks.check('rounds of questions with state, and roots', async () => {
            answerElicit = ({ requestedSchema }) => {
                const [field] = Object.keys(requestedSchema.properties);
                return { action: 'accept', content: { [field]: field === 'ok' ? true : `a ${field}` } };
            };
            equal(await said('test_input_required_result_multi_round'), 'a name likes a color', 'three rounds');
            equal(await said('test_input_required_result_request_state'), 'state-ok', 'state');
            equal(await said('test_input_required_result_list_roots'), 'Roots: file:///interop/wurzel', 'roots');
        });
        await checks.check('20 conversations at once', async () => {
            const answers = await Promise.all(
                Array.from({ length: 20 }, (_, at) => said('test_sampling', { prompt: `number ${at}` })),
            );
            equal(answers, Array.from({ length: 20 }, (_, at) => `LLM response: sampled: number ${at}`), 'answers');
        });
    }
    await checks.check('logging follows the level', async () => {
        const logged = async (level) => {
            await session.setLevel(level);
            seen.logs.length = 0;
            await said('log_all');
            const wanted = { warning: ['warning', 'error'], debug: ['debug', 'info', 'warning', 'error'] }[level];
            await eventually(() => seen.logs.length >= wanted.length, `${wanted.length} lines at ${level}`);
            equal(seen.logs.map((line) => line.level), wanted, `levels at ${level}`);
        };
        await logged('warning');
        await logged('debug');
    });
    if (has('test_reconnection') && !modern && target.transport === 'http') {
        await checks.check('an answer after the server closed the stream', async () => {
            equal(await said('test_reconnection'), 'The answer that came after the stream was closed.', 'answer');
        });
    }
    await checks.check('close', () => session.close());
}

const textOf = (result) => result.content.map((part) => part.text ?? '').join('');
const unique = () => Math.random().toString(36).slice(2);
