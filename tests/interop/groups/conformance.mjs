// The official conformance suite: the required scenarios must pass through the gateway, and every
// scenario there is must come to what it comes to without the gateway.

import { ALL, clientRequirements, differences, everything, requirements, REVISIONS } from '../conformance/suite.mjs';
import { startCluster } from '../lib/cluster.mjs';
import { startFixture } from '../lib/fixtures.mjs';
import { startGateway } from '../lib/gateway.mjs';

export async function serverLeg({ report, folder, direct }) {
    const fixture = await startFixture('ts', folder);
    const gateway = direct ? undefined : await startGateway({ fixture: fixture.config.http }, folder);
    try {
        for (const revision of REVISIONS) {
            const wanted = await requirements(fixture.urls.http, revision);
            report.group(`conformance ${revision}, server, direct`, exitProblems(wanted), counts(wanted));
            if (!gateway) continue;
            const got = await requirements(gateway.url, revision);
            report.group(`conformance ${revision}, server, through the gateway`, exitProblems(got), counts(got));
        }
        for (const version of gateway ? ALL : []) {
            const wanted = await everything(fixture.urls.http, version);
            const got = await everything(gateway.url, version);
            const problems = differences(wanted.scenarios, got.scenarios);
            report.group(`conformance --suite all at ${version}: as direct`, nonEmpty(problems, wanted), counts(got));
        }
    } finally {
        await gateway?.stop();
        await fixture.stop();
    }
}

/** The required scenarios once more, through three nodes behind the shipped nginx. */
export async function clusterLeg({ report, folder, direct }) {
    if (direct) return;
    const fixture = await startFixture('ts', folder);
    const cluster = await startCluster({ fixture: fixture.config.http }, folder);
    try {
        for (const revision of REVISIONS) {
            const got = await requirements(cluster.url, revision);
            report.group(`conformance ${revision}, server, three nodes behind nginx`, exitProblems(got), counts(got));
        }
    } finally {
        await cluster.stop();
        await fixture.stop();
    }
}

export async function clientLeg({ report, direct }) {
    for (const revision of REVISIONS) {
        const wanted = await clientRequirements('client.mjs', revision);
        report.group(`conformance ${revision}, client, direct`, exitProblems(wanted), counts(wanted));
        if (direct) continue;
        const got = await clientRequirements('through-gateway.mjs', revision);
        report.group(`conformance ${revision}, client, through the gateway`, exitProblems(got), counts(got));
        const problems = differences(wanted.scenarios, got.scenarios);
        report.group(`conformance ${revision}, client: as direct`, nonEmpty(problems, wanted), counts(got));
    }
}

const counts = ({ scenarios }) => `${Object.keys(scenarios).length} scenarios`;

function exitProblems({ code, output }) {
    if (code === 0) return [];
    const summary = output.slice(Math.max(0, output.search(/=== (SUITE )?SUMMARY ===/)));
    return [`the suite exits with ${code}`, ...summary.split('\n').filter((line) => /✗|error/i.test(line))];
}

/** A comparison of nothing with nothing proves nothing. */
function nonEmpty(problems, { scenarios, output }) {
    if (Object.keys(scenarios).length > 0) return problems;
    return [...problems, `no scenario ran:\n${output.slice(-500)}`];
}
