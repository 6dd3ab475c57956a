// Published servers, driven through the gateway as the README's steps set them up.

import { join } from 'node:path';
import { interop, node } from '../lib/fixtures.mjs';
import { startGateway } from '../lib/gateway.mjs';
import { run, tail } from '../lib/processes.mjs';
import { REAL_SERVERS } from '../real-servers/servers.mjs';

export async function realServers({ report, folder, direct }) {
    for (const { name, server, open } of REAL_SERVERS) {
        const { config, url, args = [], stop } = await open(folder);
        if (direct && !url) continue; // a stdio server has no URL of its own
        // Named as a desktop client's file names them: that file is what people have.
        const gateway = direct ? undefined : await startGateway({ [server]: config }, folder, 'mcpServers');
        const script = join(interop, 'real-servers', 'check.mjs');
        const target = gateway?.url ?? url;
        const { code, output } = await run(node, [script, '--url', target, '--server', server, ...args]);
        const failures = output.split('\n').filter((line) => line && !/"ok":true/.test(line));
        const problems = code === 0 ? [] : failures.slice(0, 30);
        if (problems.length > 0 && gateway) problems.push(`gateway: ${tail(gateway.log, 10)}`);
        report.group(`real server: ${name}`, problems, `${output.match(/"ok":true/g)?.length ?? 0} checks`);
        await gateway?.stop();
        await stop?.();
    }
}
