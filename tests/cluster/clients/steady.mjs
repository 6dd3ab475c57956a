// Calls two servers steadily with a TypeScript SDK and prints what became of every call, a JSON line
// each.
//
//   steady.mjs --base URL --sdk ts1|ts2 --era legacy|modern --name NAME
//
// Runs until standard input ends. The SDK is driven through the interop tests' adapters. Prints
// {"ready": NAME} once both sessions are open.

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const DEADLINE_MS = 35_000;
const PAUSE_MS = 100;
const STEPS = 12;
// What the SDKs call a request that nobody answered in time.
const TIMED_OUT = [-32001, 'REQUEST_TIMEOUT'];

const { values: options } = parseArgs({
    options: {
        base: { type: 'string' },
        sdk: { type: 'string' },
        era: { type: 'string' },
        name: { type: 'string' },
    },
});
const { base, sdk, era, name } = options;
const { connect } = await import(`../../interop/clients/${sdk}.mjs`);

let stopped = false;
let number = 0;
const open = new Set();
process.stdin.resume();
process.stdin.on('end', () => {
    stopped = true;
});

const say = (line) => console.log(JSON.stringify(line));
const words = (error) => `${error?.name ?? 'Error'}: ${error?.message ?? error}`.slice(0, 300);

/** Calls in one session for as long as it lives; one that cannot be opened is counted and tried again. */
async function lane(server, call) {
    const on = new Proxy({}, { get: () => () => ({}) });
    while (!stopped) {
        const started = Date.now();
        let how = 'unopened';
        try {
            const session = await connect({ url: `${base}/mcp/${server}`, era, transport: 'http' }, on);
            await session.client.listTools();
            how = 'died';
            open.add(server);
            if (open.size === 2) {
                say({ ready: name });
                open.add('said');
            }
            while (!stopped) {
                await call(session);
                await sleep(PAUSE_MS);
            }
            await session.close();
        } catch (error) {
            say({ kind: 'session', how, message: words(error), ms: Date.now() - started });
            await sleep(500);
        }
    }
}

async function once(session, kind, tool, args, expect, key = null) {
    const line = { kind, key };
    const numbers = [];
    const settings = { timeout: DEADLINE_MS };
    if (kind === 'stream') settings.onprogress = ({ progress }) => numbers.push(progress);
    const started = Date.now();
    try {
        const answer = JSON.stringify(await session.callTool(tool, args, settings));
        line.how = answer.includes(expect) ? 'result' : 'wrong';
        if (line.how === 'wrong') line.message = answer.slice(0, 300);
        else if (kind === 'stream') {
            // These SDKs drop progress that they read together with the answer.
            const expected = Math.max(...numbers, 0);
            line.missing = expected - new Set(numbers).size;
            line.doubled = numbers.length - new Set(numbers).size;
        }
    } catch (error) {
        line.how = TIMED_OUT.includes(error?.code) && Date.now() - started >= DEADLINE_MS ? 'nothing' : 'error';
        line.code = Number.isInteger(error?.code) ? error.code : null;
        line.message = words(error);
    }
    line.ms = Date.now() - started;
    say(line);
}

function quick(session) {
    number += 1;
    const key = `${name}-${number}`;
    return number % 2
        ? once(session, 'read', 'echo', { text: key }, key)
        : once(session, 'write', 'write', { key }, `write ${key}: execution 1`, key);
}

const streamed = (session) => once(session, 'stream', 'slow', { ms: 1200, steps: STEPS }, 'slept 1200 ms');

await Promise.all([lane('count', quick), lane('stream', streamed)]);
process.exit(0);
