#!/usr/bin/env node
// Drives a published server through a URL and asserts that it does what it is for.
//
//   check.mjs --url URL --server everything|memory|filesystem|time [--folder FOLDER]
//
// FOLDER is what the filesystem server may touch.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { connect } from '../clients/ts1.mjs';
import { Checks, equal, eventually, expect } from '../lib/checks.mjs';

const { values: options } = parseArgs({
    options: { url: { type: 'string' }, server: { type: 'string' }, folder: { type: 'string' } },
});
const text = (result) => result.content.map((part) => part.text ?? '').join('\n');

const SERVERS = {
    async everything(checks, session, seen) {
        const { client } = session;
        await checks.check('echo and sum', async () => {
            expect(text(await session.callTool('echo', { message: 'Grüße 世界' })).includes('Grüße 世界'), 'echo');
            expect(text(await session.callTool('get-sum', { a: 2, b: 40 })).includes('42'), 'sum');
        });
        await checks.check('a long operation reports progress', async () => {
            const steps = [];
            const done = await session.callTool('trigger-long-running-operation', { duration: 1, steps: 4 }, {
                onprogress: ({ progress }) => steps.push(progress),
            });
            expect(text(done).includes('completed'), text(done));
            // The SDK's client drops a last progress that is read together with the answer.
            equal(steps.slice(0, 3), [1, 2, 3], 'progress');
        });
        await checks.check('sampling and elicitation reach the client', async () => {
            const sampled = await session.callTool('trigger-sampling-request', { prompt: 'Wie geht es?', maxTokens: 10 });
            expect(text(sampled).includes('sampled here'), text(sampled));
            await session.callTool('trigger-elicitation-request');
            equal(seen.elicited.length, 1, 'elicitations');
        });
        await checks.check('roots of the client', async () => {
            expect(text(await session.callTool('get-roots-list')).includes('file:///interop'), 'roots');
        });
        await checks.check('structured content and images', async () => {
            const weather = await session.callTool('get-structured-content', { location: 'Chicago' });
            expect(typeof weather.structuredContent.temperature === 'number', JSON.stringify(weather));
            const image = (await session.callTool('get-tiny-image')).content.find(({ type }) => type === 'image');
            expect(image.data.length > 100, 'image');
        });
        await checks.check('resources and updates', async () => {
            const { resources } = await client.listResources();
            const { contents } = await client.readResource({ uri: resources[0].uri });
            expect((contents[0].text ?? contents[0].blob).length > 0, 'contents');
            await session.subscribe(resources[0].uri);
            await session.callTool('toggle-subscriber-updates');
            await eventually(() => seen.updated.includes(resources[0].uri), 'resources/updated', { within: 20_000 });
            await session.callTool('toggle-subscriber-updates');
        });
        await checks.check('prompts and completion', async () => {
            const { prompts } = await client.listPrompts();
            const plain = prompts.find((prompt) => !prompt.arguments?.length);
            expect((await client.getPrompt({ name: plain.name })).messages.length > 0, 'messages');
            const wanted = prompts.find((prompt) => prompt.name === 'completable-prompt');
            const { completion } = await session.complete({
                ref: { type: 'ref/prompt', name: wanted.name },
                argument: { name: wanted.arguments[0].name, value: 'E' },
            });
            expect(completion.values.length > 0, 'no suggestions');
        });
        await checks.check('logging', async () => {
            await session.setLevel('debug');
            await session.callTool('toggle-simulated-logging');
            await eventually(() => seen.logs.length > 0, 'a log line', { within: 20_000 });
            await session.callTool('toggle-simulated-logging');
        });
    },

    async memory(checks, session) {
        await checks.check('remembers and finds', async () => {
            const entity = { name: 'Zoë', entityType: 'Mensch', observations: ['mag 茶'] };
            await session.callTool('create_entities', { entities: [entity] });
            await session.callTool('add_observations', { observations: [{ entityName: 'Zoë', contents: ['wohnt in Köln'] }] });
            const found = JSON.parse(text(await session.callTool('search_nodes', { query: 'Zoë' })));
            equal(found.entities[0].observations, ['mag 茶', 'wohnt in Köln'], 'observations');
        });
        await checks.check('forgets', async () => {
            await session.callTool('delete_entities', { entityNames: ['Zoë'] });
            const graph = JSON.parse(text(await session.callTool('read_graph')));
            expect(!graph.entities.some(({ name }) => name === 'Zoë'), 'Zoë is still there');
        });
    },

    async filesystem(checks, session) {
        const file = join(options.folder, 'brief.txt');
        await checks.check('reads what is there', async () => {
            writeFileSync(file, 'erste Zeile\nzweite Zeile 🌍\n');
            equal(text(await session.callTool('read_text_file', { path: file })), readFileSync(file, 'utf8'), 'file');
        });
        await checks.check('writes and edits', async () => {
            await session.callTool('write_file', { path: file, content: 'alt\n' });
            await session.callTool('edit_file', { path: file, edits: [{ oldText: 'alt', newText: 'neu' }] });
            equal(readFileSync(file, 'utf8'), 'neu\n', 'file');
        });
        await checks.check('lists, and stays in its folder', async () => {
            expect(text(await session.callTool('list_directory', { path: options.folder })).includes('brief.txt'), 'list');
            const outside = await session.callTool('read_text_file', { path: '/etc/hostname' });
            equal(outside.isError, true, 'isError');
        });
    },

    async time(checks, session) {
        await checks.check('tells and converts time', async () => {
            const now = JSON.parse(text(await session.callTool('get_current_time', { timezone: 'Asia/Tokyo' })));
            equal(now.timezone, 'Asia/Tokyo', 'zone');
            const given = { source_timezone: 'Etc/UTC', time: '12:00', target_timezone: 'Asia/Tokyo' };
            const converted = JSON.parse(text(await session.callTool('convert_time', given)));
            expect(converted.target.datetime.includes('T21:00'), JSON.stringify(converted));
        });
    },
};

const checks = new Checks({ server: options.server });
const seen = { elicited: [], updated: [], logs: [] };
let session;
const connected = await checks.check('connect and list tools', async () => {
    session = await connect({ url: options.url, era: 'legacy', transport: 'http' }, {
        elicit: (params) => (seen.elicited.push(params), { action: 'decline' }),
        sample: () => ({ model: 'none', role: 'assistant', content: { type: 'text', text: 'sampled here' } }),
        roots: () => ({ roots: [{ uri: options.folder ? `file://${options.folder}` : 'file:///interop', name: 'root' }] }),
        log: (line) => seen.logs.push(line),
        updated: (uri) => seen.updated.push(uri),
        toolsChanged: () => {},
        promptsChanged: () => {},
    });
    const { tools } = await session.client.listTools();
    expect(tools.length > 0, 'no tools');
});
if (connected) {
    await SERVERS[options.server](checks, session, seen);
    await checks.check('close', () => session.close());
}
checks.finish();
