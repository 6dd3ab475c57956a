// The dual-era TypeScript SDK, behind the interface that surface.mjs drives.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const TRANSPORTS = {
    http: (url) => new StreamableHTTPClientTransport(url),
    sse: (url) => new SSEClientTransport(url),
};
const MODES = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };

export const name = '@modelcontextprotocol/client 2.4.0';

export async function connect({ url, era, transport }, on) {
    const client = new Client(
        { name: 'holdfast-interop-ts2', version: '1.0.0' },
        {
            capabilities: { elicitation: { form: {} }, sampling: {}, roots: {} },
            versionNegotiation: { mode: MODES[era] },
        },
    );
    client.setRequestHandler('elicitation/create', ({ params }) => on.elicit(params));
    client.setRequestHandler('sampling/createMessage', ({ params }) => on.sample(params));
    client.setRequestHandler('roots/list', () => on.roots());
    client.setNotificationHandler('notifications/message', ({ params }) => on.log(params));
    client.setNotificationHandler('notifications/resources/updated', ({ params }) => on.updated(params.uri));
    client.setNotificationHandler('notifications/tools/list_changed', () => on.toolsChanged());
    client.setNotificationHandler('notifications/prompts/list_changed', () => on.promptsChanged());
    const open = TRANSPORTS[transport](new URL(url));
    await client.connect(open);

    const modern = client.getProtocolEra() === 'modern';
    const listening = new Map();
    let level;
    const listen = async (key, filter) => listening.set(key, await client.listen(filter));
    return {
        era: modern ? 'modern' : 'legacy',
        client,
        instructions: () => client.getInstructions(),
        callTool: (name, args = {}, options = {}) => {
            const _meta = modern && level ? { 'io.modelcontextprotocol/logLevel': level } : undefined;
            return client.callTool({ name, arguments: args, ...(_meta && { _meta }) }, options);
        },
        complete: (params) => client.complete(params),
        subscribe: (uri) =>
            modern ? listen(uri, { resourceSubscriptions: [uri] }) : client.subscribeResource({ uri }),
        unsubscribe: (uri) => (modern ? listening.get(uri).close() : client.unsubscribeResource({ uri })),
        watchLists: async () => {
            if (modern) await listen('lists', { toolsListChanged: true, promptsListChanged: true });
        },
        setLevel: async (given) => {
            level = given; // modern: goes with each request
            if (!modern) await client.setLoggingLevel(given);
        },
        close: async () => {
            for (const subscription of listening.values()) await subscription.close();
            if (!modern) await open.terminateSession?.();
            await client.close();
        },
    };
}
