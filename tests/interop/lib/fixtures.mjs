// The servers behind the gateway: both fixtures on each of their transports.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { start } from './processes.mjs';

export const interop = fileURLToPath(new URL('..', import.meta.url));
export const tools = process.env.HOLDFAST_TOOLS || join(interop, '..', '..', '.tools');
export const node = join(tools, 'node_modules', '.bin', 'node');
export const python = (venv) => join(tools, venv, 'bin', 'python');

const FIXTURES = {
    ts: { command: node, args: [join(interop, 'fixture', 'server.mjs')], modern: true },
    py: { command: python('py1'), args: [join(interop, 'fixture', 'legacy.py')], modern: false },
};
export const KINDS = Object.keys(FIXTURES);

/** Starts a fixture's network side; `config` gives the gateway's section for each of its transports. */
export async function startFixture(kind, folder) {
    const { command, args, modern } = FIXTURES[kind];
    const log = join(folder, `fixture-${kind}.log`);
    const server = await start(command, [...args, '--port', '0'], { log, ready: /listening on http:\/\/(\S+)\/mcp/ });
    const origin = server.match[1];
    return {
        kind,
        modern,
        log,
        stop: server.stop,
        urls: { http: `http://${origin}/mcp`, sse: `http://${origin}/sse`, ws: `ws://${origin}/ws` },
        config: {
            http: { url: `http://${origin}/mcp` },
            sse: { transport: 'sse', url: `http://${origin}/sse` },
            ws: { url: `ws://${origin}/ws` },
            stdio: { command, args: [...args, '--stdio'] },
        },
    };
}
