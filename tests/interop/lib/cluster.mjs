// Three nodes of the gateway under test behind the nginx that the project ships, run from the file
// that it ships.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { interop } from './fixtures.mjs';
import { freePort, start, tail } from './processes.mjs';

const SECRET = '0123456789abcdef0123456789abcdef';
const NAMES = ['n1', 'n2', 'n3'];

/** `servers` is the section of that name; `folder` takes configurations, data and logs. */
export async function startCluster(servers, folder) {
    const binary = process.env.HOLDFAST_BIN;
    if (!binary) throw new Error('HOLDFAST_BIN names no gateway');
    const own = join(folder, `cluster-${process.pid}`);
    mkdirSync(own, { recursive: true });
    const ports = {};
    for (const name of NAMES) ports[name] = { client: await freePort(), admin: await freePort(), peer: await freePort() };
    const nodes = Object.fromEntries(NAMES.map((name) => [name, `127.0.0.1:${ports[name].peer}`]));
    const started = [];
    try {
        for (const name of NAMES) {
            const config = join(own, `${name}.yaml`);
            const settings = {
                node: { data_dir: join(own, name) },
                cluster: { node_id: name, secret: SECRET, nodes },
                listen: { address: `127.0.0.1:${ports[name].client}` },
                admin: { address: `127.0.0.1:${ports[name].admin}` },
                log: { level: process.env.HOLDFAST_LOG_LEVEL ?? 'info' },
                servers,
            };
            writeFileSync(config, JSON.stringify(settings, null, 2)); // JSON is YAML too
            started.push(await start(binary, ['serve', '--config', config], { log: join(own, `${name}.log`) }));
        }
        for (const name of NAMES) await answers(ports[name].client, '/health/ready', join(own, `${name}.log`));
        const { port, process: nginx } = await startNginx(own, NAMES.map((name) => ports[name].client));
        started.push(nginx);
        return { url: `http://127.0.0.1:${port}/mcp`, stop: () => stop(started) };
    } catch (error) {
        await stop(started);
        throw error;
    }
}

const stop = (started) => Promise.all(started.map((it) => it.stop()));

async function startNginx(folder, nodes) {
    const port = await freePort();
    const values = { HOLDFAST_LISTEN: `127.0.0.1:${port}` };
    nodes.forEach((node, at) => (values[`HOLDFAST_NODE_${at + 1}`] = `127.0.0.1:${node}`));
    const template = readFileSync(join(interop, '../../nginx/nginx.conf'), 'utf8');
    const config = join(folder, 'nginx.conf');
    writeFileSync(config, template.replaceAll(/\$\{(HOLDFAST_\w+)\}/g, (whole, name) => values[name] ?? whole));
    const log = join(folder, 'nginx.log');
    const own = `daemon off; pid ${folder}/nginx.pid;`;
    const nginx = await start('nginx', ['-p', folder, '-c', config, '-g', own], { log });
    await answers(port, '/balancer/health', log);
    return { port, process: nginx };
}

async function answers(port, path, log) {
    for (const end = performance.now() + 60_000; performance.now() < end; ) {
        const answer = await fetch(`http://127.0.0.1:${port}${path}`).catch(() => undefined);
        await answer?.body?.cancel();
        if (answer?.ok) return;
        await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`${path} on port ${port} does not answer with 200:\n${tail(log)}`);
}
