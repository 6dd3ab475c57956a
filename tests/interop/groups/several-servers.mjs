// One gateway in front of several servers: each is reached at /mcp/NAME, and /mcp alone says so.

import { join } from 'node:path';
import { interop, node, startFixture } from '../lib/fixtures.mjs';
import { startGateway } from '../lib/gateway.mjs';
import { run } from '../lib/processes.mjs';

export async function severalServers({ report, folder, direct }) {
    if (direct) return;
    const [ts, py] = [await startFixture('ts', folder), await startFixture('py', folder)];
    const servers = { 'ts-http': ts.config.http, 'ts-stdio': ts.config.stdio, 'py-ws': py.config.ws };
    const gateway = await startGateway(servers, folder);
    try {
        for (const [name, transport] of [['ts-http', 'http'], ['ts-stdio', 'http'], ['py-ws', 'http'], ['py-ws', 'ws']]) {
            const url = gateway.urlFor(transport, name);
            const args = ['--url', url, '--sdk', 'ts1', '--transport', transport];
            const { code, output } = await run(node, [join(interop, 'clients', 'run.mjs'), ...args]);
            const failures = output.split('\n').filter((line) => line && !/"ok":true/.test(line));
            report.group(`several servers: ${name} over ${transport}`, code === 0 ? [] : failures.slice(0, 30));
        }
        report.group('several servers: /mcp lists the paths', await mergedProblems(gateway, Object.keys(servers)));
    } finally {
        await gateway.stop();
        await ts.stop();
        await py.stop();
    }
}

async function mergedProblems(gateway, names) {
    const answer = await fetch(gateway.urlFor('http'), {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
        body: JSON.stringify({
            jsonrpc: '2.0',
            id: 'first',
            method: 'initialize',
            params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'interop', version: '1' } },
        }),
    });
    const body = await answer.text();
    const problems = names.filter((name) => !body.includes(`/mcp/${name}`)).map((name) => `no /mcp/${name} in ${body}`);
    if (!body.includes('"first"')) problems.push(`not an answer to the request: ${body}`);
    return problems;
}
