// Runs the official conformance suite and reads back what each scenario came to.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { interop, node, tools } from '../lib/fixtures.mjs';
import { run } from '../lib/processes.mjs';

const SUITE = join(tools, 'node_modules', '@modelcontextprotocol', 'conformance', 'dist', 'index.js');
export const REVISIONS = ['2025-11-25', '2026-07-28'];
export const ALL = ['2025-06-18', '2025-11-25', '2026-07-28'];

/** The server leg over a requirement set: exit code 0 means that every scored scenario passed. */
export const requirements = (url, revision) => suite(['server', '--url', url, '--requirements', revision]);

/** Every server scenario there is at a version, scored or not. */
export const everything = (url, version) =>
    suite(['server', '--url', url, '--suite', 'all', '--spec-version', version]);

/**
 * The client leg over a requirement set; the suite appends its server's URL to the command. It starts
 * all clients at once and gives each a time; so that a small machine does not run out of it, they
 * queue for one of three locks and the time is long.
 */
export async function clientRequirements(script, revision) {
    const locks = mkdtempSync(join(tmpdir(), 'holdfast-locks-'));
    const command = `flock ${locks}/$(($$%3)) ${node} ${join(interop, 'conformance', script)}`;
    try {
        return await suite(['client', '--command', command, '--requirements', revision, '--timeout', '240000']);
    } finally {
        rmSync(locks, { recursive: true });
    }
}

async function suite(args) {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-suite-'));
    try {
        const { code, output } = await run(node, [SUITE, ...args, '-o', folder], { within: 480_000 });
        return { code, output, scenarios: results(folder) };
    } finally {
        rmSync(folder, { recursive: true });
    }
}

/** Scenario → its checks as "id status", sorted, without what is only told (INFO). */
function results(folder) {
    const scenarios = {};
    for (const file of readdirSync(folder, { recursive: true })) {
        const name = /^(?:server-)?(.+?)-\d{4}-\d\d-\d\dT[^/]*\/checks\.json$/.exec(file)?.[1];
        if (!name) continue;
        const checks = JSON.parse(readFileSync(join(folder, file), 'utf8'));
        scenarios[name] = checks
            .filter((check) => check.status !== 'INFO')
            .map((check) => ({ id: check.id, status: check.status, why: check.errorMessage }));
    }
    return scenarios;
}

/** What differs between two runs; each line names the scenario and what each run said. */
export function differences(direct, through) {
    const lines = [];
    const names = new Set([...Object.keys(direct), ...Object.keys(through)]);
    for (const name of [...names].sort()) {
        const [wanted, got] = [tally(direct[name]), tally(through[name])];
        if (wanted !== got) lines.push(`${name}: direct [${wanted}] through [${got}]${reasons(through[name])}`);
    }
    return lines;
}

/** A check may be repeated (once a request, say), and how often may depend on timing: what counts is which came out how. */
function tally(checks) {
    if (!checks) return 'not run';
    const failed = checks.filter((check) => check.status !== 'SUCCESS').map((check) => `${check.id} ${check.status}`);
    const ids = new Set(checks.map((check) => check.id));
    return [`${ids.size} checks`, ...new Set(failed.sort())].join(', ');
}

function reasons(checks = []) {
    const told = checks.filter((check) => check.status === 'FAILURE' && check.why);
    return told.map((check) => `\n      ${check.id}: ${check.why.slice(0, 300)}`).join('');
}
