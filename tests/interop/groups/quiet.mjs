// Sessions on which nobody says anything for a while: none of the gateway's timeouts for requests,
// handshakes and idle connections may end one.

import { connect } from '../clients/ts1.mjs';
import { startFixture } from '../lib/fixtures.mjs';
import { startGateway } from '../lib/gateway.mjs';
import { equal, eventually } from '../lib/checks.mjs';

/** Longer than the 10 s that the gateway gives a request's head by default. */
const SILENCE_MS = 12_000;
const URI = 'test://watched-resource';

export async function quiet({ report, folder, direct }) {
    const fixture = await startFixture('ts', folder);
    const gateway = direct ? undefined : await startGateway({ fixture: fixture.config.stdio }, folder);
    try {
        await Promise.all(
            ['http', 'sse', 'ws'].map(async (transport) => {
                const url = gateway ? gateway.urlFor(transport) : fixture.urls[transport];
                const problem = await session(url, transport).catch((error) => error);
                report.group(`a quiet session over ${transport} lives on`, problem ? [String(problem)] : []);
            }),
        );
    } finally {
        await gateway?.stop();
        await fixture.stop();
    }
}

async function session(url, transport) {
    const updated = [];
    const nothing = () => {};
    const on = { updated: (uri) => updated.push(uri), log: nothing, toolsChanged: nothing, promptsChanged: nothing };
    const open = await connect({ url, era: 'legacy', transport }, on);
    const said = async (name, args) => (await open.callTool(name, args)).content[0].text;
    await open.subscribe(URI);
    equal(await said('count'), '1', 'count');
    await new Promise((done) => setTimeout(done, SILENCE_MS));
    equal(await said('count'), '2', 'count after the silence');
    // One try: the stream for the server's own messages must still be open as well.
    await said('touch', { uri: URI });
    await eventually(() => updated.length > 0, 'resources/updated after the silence', { within: 5000 });
    await open.close();
}
