// The TypeScript SDK of the legacy era, behind the interface that surface.mjs drives.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { WebSocketClientTransport } from '@modelcontextprotocol/sdk/client/websocket.js';
import {
    CallToolResultSchema,
    CreateMessageRequestSchema,
    ElicitRequestSchema,
    ListRootsRequestSchema,
    LoggingMessageNotificationSchema,
    PromptListChangedNotificationSchema,
    ResourceUpdatedNotificationSchema,
    ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

const TRANSPORTS = {
    http: (url) => new StreamableHTTPClientTransport(url),
    sse: (url) => new SSEClientTransport(url),
    ws: (url) => new WebSocketClientTransport(url),
};

export const name = '@modelcontextprotocol/sdk 1.32.2';

export async function connect({ url, era, transport }, on) {
    if (era !== 'legacy') throw new Error('this SDK speaks the legacy era only');
    const client = new Client(
        { name: 'holdfast-interop-ts1', version: '1.0.0' },
        { capabilities: { elicitation: { form: {} }, sampling: {}, roots: {} } },
    );
    client.setRequestHandler(ElicitRequestSchema, ({ params }) => on.elicit(params));
    client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => on.sample(params));
    client.setRequestHandler(ListRootsRequestSchema, () => on.roots());
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => on.log(params));
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => on.updated(params.uri));
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => on.toolsChanged());
    client.setNotificationHandler(PromptListChangedNotificationSchema, () => on.promptsChanged());
    const open = TRANSPORTS[transport](new URL(url));
    await client.connect(open);
    return {
        era: 'legacy',
        client,
        instructions: () => client.getInstructions(),
        callTool: (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, CallToolResultSchema, options),
        complete: (params) => client.complete(params),
        subscribe: (uri) => client.subscribeResource({ uri }),
        unsubscribe: (uri) => client.unsubscribeResource({ uri }),
        watchLists: async () => {},
        setLevel: (level) => client.setLoggingLevel(level),
        close: async () => {
            await open.terminateSession?.();
            await client.close();
        },
    };
}
