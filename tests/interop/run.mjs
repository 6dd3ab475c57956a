// Runs the interop tests and says, a line a group, what came of them. Started by run.sh, which sees
// to the tools first.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { clients } from './groups/clients.mjs';
import { clientLeg, clusterLeg, serverLeg } from './groups/conformance.mjs';
import { quiet } from './groups/quiet.mjs';
import { realServers } from './groups/real-servers.mjs';
import { severalServers } from './groups/several-servers.mjs';

const GROUPS = {
    'conformance-server': serverLeg,
    'conformance-cluster': clusterLeg,
    'conformance-client': clientLeg,
    clients,
    quiet,
    'several-servers': severalServers,
    'real-servers': realServers,
};

const { values: options } = parseArgs({
    options: { only: { type: 'string' }, match: { type: 'string' }, direct: { type: 'boolean', default: false } },
});
const chosen = Object.keys(GROUPS).filter((name) => !options.only || name.startsWith(options.only));
if (chosen.length === 0) {
    console.error(`run.sh: there is no group ${options.only}; there are ${Object.keys(GROUPS).join(', ')}`);
    process.exit(2);
}
if (!options.direct && !process.env.HOLDFAST_BIN) {
    console.error('run.sh: set HOLDFAST_BIN to the gateway to test, or say --direct to leave it out');
    process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), 'holdfast-interop-'));
let passed = 0;
let failed = 0;
const report = {
    /** One line for a group of checks; what went wrong follows it, indented. */
    group(name, problems, note = '') {
        if (problems.length === 0) passed++;
        else failed++;
        console.log(`${problems.length === 0 ? 'ok  ' : 'FAIL'} ${name}${note && ` (${note})`}`);
        for (const problem of problems) console.log(problem.replaceAll(/^/gm, '     '));
    },
};
for (const name of chosen) {
    const from = performance.now();
    try {
        await GROUPS[name]({ report, folder, direct: options.direct, match: new RegExp(options.match ?? '') });
    } catch (error) {
        report.group(name, [error.stack]);
    }
    console.log(`---- ${name} took ${((performance.now() - from) / 1000).toFixed(1)} s`);
}
if (failed === 0) rmSync(folder, { recursive: true });
else console.log(`The logs of this run are in ${folder}`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
