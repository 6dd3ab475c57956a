// The published servers, as the gateway's configuration names them. `npx` finds the pinned packages
// below $HOLDFAST_TOOLS because that is its working folder, so no run needs the network.

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { node, python, tools } from '../lib/fixtures.mjs';
import { freePort, start } from '../lib/processes.mjs';

const npx = (name, ...args) => ({ command: 'npx', args: ['-y', `@modelcontextprotocol/server-${name}`, ...args], cwd: tools });

/** Each entry: which checks drive it, and how to have it there; `stop` ends what was started. */
export const REAL_SERVERS = [
    {
        name: 'everything over stdio',
        server: 'everything',
        open: async () => ({ config: npx('everything') }),
    },
    {
        name: 'everything over Streamable HTTP',
        server: 'everything',
        open: async (folder) => {
            const port = await freePort();
            const script = join(tools, 'node_modules', '@modelcontextprotocol', 'server-everything', 'dist', 'index.js');
            const { stop } = await start(node, [script, 'streamableHttp'], {
                env: { PORT: String(port) },
                log: join(folder, 'everything.log'),
            });
            const url = `http://127.0.0.1:${port}/mcp`;
            await listening(port);
            return { config: { url }, url, stop };
        },
    },
    {
        name: 'memory over stdio',
        server: 'memory',
        open: async (folder) => {
            const config = { ...npx('memory'), env: { MEMORY_FILE_PATH: join(folder, 'memory.jsonl') } };
            return { config };
        },
    },
    {
        name: 'filesystem over stdio',
        server: 'filesystem',
        open: async (folder) => {
            const allowed = mkdtempSync(join(folder, 'files-'));
            return { config: npx('filesystem', allowed), args: ['--folder', allowed] };
        },
    },
    {
        name: 'mcp-server-time over stdio',
        server: 'time',
        open: async () => ({ config: { command: python('py1'), args: ['-m', 'mcp_server_time'] } }),
    },
];

async function listening(port) {
    for (const end = performance.now() + 20_000; performance.now() < end; ) {
        const answer = await fetch(`http://127.0.0.1:${port}/mcp`).catch(() => undefined);
        await answer?.body?.cancel();
        if (answer) return;
        await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`nothing listens on port ${port}`);
}
