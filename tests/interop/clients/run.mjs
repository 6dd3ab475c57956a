#!/usr/bin/env node
// Drives one URL with a TypeScript SDK and asserts everything an MCP session can do.
//
//   run.mjs --url URL --sdk ts1|ts2 --era legacy|auto|modern --transport http|sse|ws
//           [--expect-era legacy|modern]

import { parseArgs } from 'node:util';
import { Checks } from '../lib/checks.mjs';
import { checkSurface } from './surface.mjs';

const { values: options } = parseArgs({
    options: {
        url: { type: 'string' },
        sdk: { type: 'string', default: 'ts2' },
        era: { type: 'string', default: 'legacy' },
        transport: { type: 'string', default: 'http' },
        'expect-era': { type: 'string' },
    },
});
const { url, sdk, era, transport } = options;
if (!url) {
    console.error('usage: run.mjs --url URL [--sdk ts1|ts2] [--era legacy|auto|modern] [--transport http|sse|ws]');
    process.exit(2);
}

const { connect, name } = await import(`./${sdk}.mjs`);
const checks = new Checks({ client: name, era, transport });
await checkSurface(checks, connect, {
    url,
    era,
    transport,
    expectEra: options['expect-era'],
});
checks.finish();
