// Starts the gateway under test ($HOLDFAST_BIN) with a configuration of its own and waits until it
// is ready.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, start, tail } from './processes.mjs';

let count = 0;

/** `servers` is the section of that name, or of another `key`; `folder` takes the configuration and the log. */
export async function startGateway(servers, folder, key = 'servers') {
    const binary = process.env.HOLDFAST_BIN;
    if (!binary) throw new Error('HOLDFAST_BIN names no gateway');
    const [port, adminPort] = [await freePort(), await freePort()];
    const name = `gateway-${process.pid}-${++count}`;
    const config = join(folder, `${name}.yaml`);
    const log = join(folder, `${name}.log`);
    const settings = {
        node: { id: name },
        listen: { address: `127.0.0.1:${port}` },
        admin: { address: `127.0.0.1:${adminPort}` },
        log: { level: process.env.HOLDFAST_LOG_LEVEL ?? 'info' },
        [key]: servers,
    };
    writeFileSync(config, JSON.stringify(settings, null, 2)); // JSON is YAML too
    const gateway = await start(binary, ['serve', '--config', config], { log });

    let ended;
    gateway.gone.then((how) => (ended = how));
    const origin = `127.0.0.1:${port}`;
    for (const end = performance.now() + 20_000; ; ) {
        if (ended) throw new Error(`${ended}:\n${tail(log)}`);
        const ready = await fetch(`http://${origin}/health/ready`).catch(() => undefined);
        await ready?.body?.cancel();
        if (ready?.ok) break;
        if (performance.now() > end) {
            await gateway.stop('SIGKILL');
            throw new Error(`the gateway was not ready within 20 s:\n${tail(log)}`);
        }
        await new Promise((done) => setTimeout(done, 25));
    }
    return {
        url: `http://${origin}/mcp`,
        /** The URL a client of that transport takes; with several servers, say which. */
        urlFor: (transport, server) => {
            const path = server ? `/mcp/${server}` : '/mcp';
            return { http: `http://${origin}${path}`, sse: `http://${origin}/sse`, ws: `ws://${origin}${path}` }[transport];
        },
        log,
        stop: gateway.stop,
    };
}
