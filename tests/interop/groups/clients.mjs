// Each SDK client on each of its transports, against each server on each of its transports: the
// gateway must make every pair look like a direct connection.

import { join } from 'node:path';
import { interop, KINDS, node, python, startFixture } from '../lib/fixtures.mjs';
import { startGateway } from '../lib/gateway.mjs';
import { run, tail } from '../lib/processes.mjs';
import { buildRmcp, RMCP } from '../lib/rmcp.mjs';

const script = (name) => join(interop, 'clients', name);
const ts = (sdk) => [node, script('run.mjs'), '--sdk', sdk];
const py = (venv) => [python(venv), script('run.py')];

/** SDK, how it is started, its eras and transports. */
const CLIENTS = [
    { sdk: 'ts1', command: ts('ts1'), runs: { legacy: ['http', 'sse', 'ws'] } },
    { sdk: 'ts2', command: ts('ts2'), runs: { legacy: ['http', 'sse'], auto: ['http', 'sse'], modern: ['http', 'sse'] } },
    { sdk: 'py1', command: py('py1'), runs: { legacy: ['http', 'sse', 'ws'] } },
    { sdk: 'py2', command: py('py2'), runs: { legacy: ['http', 'sse'], auto: ['http', 'sse'], modern: ['http'] } },
    { sdk: 'rmcp', command: [RMCP], runs: { legacy: ['http'], auto: ['http'], modern: ['http'] } },
];
const AT_ONCE = 4;

export async function clients({ report, folder, direct, match }) {
    const built = await buildRmcp();
    if (built.code !== 0) return report.group('build the Rust client', [built.output]);
    for (const kind of KINDS) {
        const fixture = await startFixture(kind, folder);
        try {
            for (const server of Object.keys(fixture.config)) {
                if (direct && server === 'stdio') continue;
                await throughServer({ report, folder, direct, match, fixture, server });
            }
        } finally {
            await fixture.stop();
        }
    }
}

async function throughServer({ report, folder, direct, match, fixture, server }) {
    const waiting = CLIENTS.flatMap(({ sdk, command, runs }) =>
        Object.entries(runs).flatMap(([era, transports]) =>
            transports
                .filter((transport) => !direct || transport === server)
                .filter(() => era !== 'modern' || fixture.modern)
                .map((transport) => ({ sdk, command, era, transport, name: `${sdk} ${era} ${transport} -> ${fixture.kind} ${server}` })),
        ),
    ).filter(({ name }) => match.test(name));
    if (waiting.length === 0) return;
    const gateway = direct ? undefined : await startGateway({ fixture: fixture.config[server] }, folder);
    try {
        await Promise.all(
            Array.from({ length: AT_ONCE }, async () => {
                for (let client = waiting.shift(); client; client = waiting.shift()) {
                    // Modern clients share one connection to such a server, and its log messages do
                    // not say whose call they belong to: with several at once they are dropped.
                    const apart = gateway && server !== 'http' && client.era !== 'legacy';
                    const own = apart ? await startGateway({ fixture: fixture.config[server] }, folder) : gateway;
                    const url = own ? own.urlFor(client.transport) : fixture.urls[client.transport];
                    try {
                        await one({ report, client, url, fixture, gateway: own });
                    } finally {
                        if (apart) await own.stop();
                    }
                }
            }),
        );
    } finally {
        await gateway?.stop();
    }
}

async function one({ report, client: { name, command, era, transport }, url, fixture, gateway }) {
    const from = performance.now();
    const [program, ...args] = command;
    const negotiated = era === 'auto' ? ['--expect-era', fixture.modern ? 'modern' : 'legacy'] : [];
    const { code, output } = await run(program, [...args, '--url', url, '--era', era, '--transport', transport, ...negotiated]);
    const failures = output.split('\n').filter((line) => line && !/"ok": ?true|"failed": ?0/.test(line));
    const problems = code === 0 ? [] : [`exit code ${code}`, ...failures.slice(0, 30)];
    if (problems.length > 0 && gateway) problems.push(`gateway: ${tail(gateway.log, 5)}`);
    const checks = output.match(/"ok": ?true/g)?.length ?? 0;
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    report.group(name, problems, `${checks} checks, ${seconds} s`);
}
