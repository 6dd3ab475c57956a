#!/usr/bin/env node
// The client leg through the gateway: starts one in front of the suite's server, runs client.mjs
// against it and stops it.
//
//   through-gateway.mjs SERVER_URL      with $HOLDFAST_BIN; the suite appends the URL

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startGateway } from '../lib/gateway.mjs';
import { tail } from '../lib/processes.mjs';
import { run } from './client.mjs';

const url = process.argv.at(-1);
const folder = mkdtempSync(join(tmpdir(), 'holdfast-conformance-'));
const gateway = await startGateway({ upstream: { url, forward_authorization: true } }, folder);
let code = 0;
try {
    await run(url, {
        via: gateway.url,
        version: process.env.MCP_CONFORMANCE_PROTOCOL_VERSION,
        context: JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}'),
    });
} catch (error) {
    console.error(error);
    code = 1;
}
await gateway.stop();
console.error(tail(gateway.log));
rmSync(folder, { recursive: true });
process.exit(code);
