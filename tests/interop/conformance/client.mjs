#!/usr/bin/env node
// The known-good client for the client leg of the conformance suite, on the official TypeScript
// SDK: connects, lists the tools and calls each, answers what the server asks, and goes through
// OAuth when the server wants it. Almost every scenario is served by just that.
//
//   client.mjs SERVER_URL      the suite appends the URL and sets MCP_CONFORMANCE_*
//
// With VIA set, MCP goes to the gateway at that URL while SERVER_URL stays the resource that the
// tokens are for: this is what a gateway with `forward_authorization` presents itself as. OAuth
// metadata that the client looks for beside the gateway's URL is then fetched beside the server's,
// as an operator's front end would route it.

import { pathToFileURL } from 'node:url';
import { Client, selectResourceURL, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { sample } from './sample.mjs';

const MODERN = '2026-07-28';

export async function run(serverUrl, { via = serverUrl, version, context = {} }) {
    const provider = new Provider(serverUrl, context);
    const transportTo = () =>
        new StreamableHTTPClientTransport(new URL(via), { authProvider: provider, fetch: metadataBeside(serverUrl, via) });
    let transport = transportTo();
    let client;
    /** Does it; when the server wants authorization first, gets that and does it again. */
    const authorized = async (operation, reconnect) => {
        for (let attempt = 1; ; attempt++) {
            try {
                return await operation();
            } catch (error) {
                if (!(error instanceof UnauthorizedError) || attempt === 3) throw error;
                await transport.finishAuth(await provider.callback());
                if (reconnect) transport = transportTo();
            }
        }
    };

    await authorized(async () => {
        client = makeClient(version);
        await client.connect(transport);
    }, true);
    const { tools } = await authorized(() => client.listTools());
    const calls = context.toolCalls ?? tools.map((tool) => ({ name: tool.name, arguments: sample(tool, tools) }));
    for (const call of calls) {
        // A scenario may refuse a call on purpose; what the client did before is what it judges.
        await authorized(() => client.callTool(call)).catch((error) => console.error(`${call.name}: ${error}`));
    }
    await client.close();
}

function makeClient(version) {
    const modern = version === MODERN;
    const client = new Client(
        { name: 'holdfast-conformance-client', version: '1.0.0' },
        {
            capabilities: { elicitation: { form: { applyDefaults: true } }, sampling: {}, roots: { listChanged: true } },
            versionNegotiation: { mode: modern ? { pin: MODERN } : 'legacy' },
        },
    );
    client.setRequestHandler('elicitation/create', ({ params }) => {
        const wanted = Object.entries(params.requestedSchema?.properties ?? {}).filter(([, schema]) => !('default' in schema));
        return {
            action: 'accept',
            content: Object.fromEntries(wanted.map(([name, schema]) => [name, schema.type === 'boolean' ? true : 'given'])),
        };
    });
    client.setRequestHandler('sampling/createMessage', () => ({
        model: 'none',
        role: 'assistant',
        content: { type: 'text', text: 'sampled' },
    }));
    client.setRequestHandler('roots/list', () => ({ roots: [{ uri: 'file:///somewhere', name: 'somewhere' }] }));
    return client;
}

/** Everything beside the MCP endpoint itself is asked of the server's origin. */
function metadataBeside(serverUrl, via) {
    const from = new URL(via);
    const to = new URL(serverUrl);
    return (input, init) => {
        const url = new URL(input);
        if (url.origin !== from.origin || url.pathname === from.pathname) return fetch(url, init);
        const end = url.pathname.endsWith(from.pathname) ? to.pathname.replace(/\/$/, '') : undefined;
        const path = end === undefined ? url.pathname : url.pathname.slice(0, -from.pathname.length) + end;
        return fetch(new URL(path + url.search, to.origin), init);
    };
}

/** An OAuth client whose user agrees to everything at once. */
class Provider {
    #resource;
    #given;
    #clients = new Map();
    #tokens = new Map();
    #lastTokens;
    #verifier;
    #redirect;

    constructor(resource, given) {
        this.#resource = resource;
        this.#given = given.client_id && { client_id: given.client_id, client_secret: given.client_secret };
    }

    redirectUrl = 'http://localhost:3333/callback';
    clientMetadataUrl = 'https://conformance-test.local/client-metadata.json';

    get clientMetadata() {
        return {
            client_name: 'holdfast-conformance-client',
            redirect_uris: [this.redirectUrl],
            grant_types: ['authorization_code', 'refresh_token'],
            response_types: ['code'],
        };
    }

    // What an authorization server issued is kept for that server alone.
    clientInformation(about) {
        return this.#clients.get(about?.issuer) ?? this.#given;
    }
    saveClientInformation(information, about) {
        this.#clients.set(about?.issuer, information);
    }
    tokens(about) {
        return about ? this.#tokens.get(about.issuer) : this.#lastTokens;
    }
    saveTokens(tokens, about) {
        this.#tokens.set(about?.issuer, tokens);
        this.#lastTokens = tokens;
    }
    invalidateCredentials() {
        this.#tokens.clear();
        this.#lastTokens = undefined;
    }
    saveCodeVerifier(verifier) {
        this.#verifier = verifier;
    }
    codeVerifier() {
        return this.#verifier;
    }
    redirectToAuthorization(url) {
        this.#redirect = url;
    }

    /** The SDK's own check, about the server and not about the gateway in front of it. */
    async validateResourceURL(_, resource) {
        await selectResourceURL(this.#resource, {}, resource && { resource });
        return resource; // as it was published: a URL object would add a slash to a bare origin
    }

    /** The query that the authorization server sent the user back with. */
    async callback() {
        const answer = await fetch(this.#redirect, { redirect: 'manual' });
        return new URL(answer.headers.get('location')).searchParams;
    }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
    const url = process.argv.at(-1);
    await run(url, {
        via: process.env.VIA || url,
        version: process.env.MCP_CONFORMANCE_PROTOCOL_VERSION,
        context: JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}'),
    });
    process.exit(0);
}
