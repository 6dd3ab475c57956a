// Processes that a run starts, and stops again by their own ids however the run ends.

import { spawn } from 'node:child_process';
import { createWriteStream, readFileSync } from 'node:fs';
import { createServer } from 'node:net';

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

/**
 * Starts a process in the background. With `ready`, waits until its standard output matches and
 * returns the match too. What it says goes to the file `log`.
 */
export async function start(command, args, { env = {}, log, ready, within = 20_000 }) {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    const gone = new Promise((done) => {
        child.on('error', (error) => done(`${command} cannot be started: ${error.message}`));
        child.on('exit', (code, signal) => done(`${command} ended with ${signal ?? code}`));
    });
    gone.then(() => running.delete(child));
    const file = createWriteStream(log);
    child.stderr.pipe(file, { end: false });
    child.stdout.pipe(file, { end: false });
    const stop = async (signal = 'SIGTERM') => {
        child.kill(signal);
        const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
        await gone;
        clearTimeout(timer);
    };
    if (!ready) return { child, gone, stop };

    let said = '';
    let timer;
    const match = await Promise.race([
        new Promise((done) => {
            child.stdout.on('data', (part) => {
                const found = ready.exec((said += part));
                if (found) done(found);
            });
        }),
        gone.then((how) => {
            throw new Error(`${how} before it was ready:\n${tail(log)}`);
        }),
        new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error(`${command} was not ready within ${within} ms:\n${tail(log)}`)), within);
        }),
    ]).finally(() => clearTimeout(timer));
    return { child, gone, stop, match };
}

/** Runs a process to its end and returns its exit code and what it printed. */
export function run(command, args, { env = {}, within = 120_000, cwd } = {}) {
    return new Promise((done) => {
        const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], cwd });
        running.add(child);
        let output = '';
        let late = false;
        const timer = setTimeout(() => {
            late = true;
            child.kill('SIGKILL');
        }, within);
        child.stdout.setEncoding('utf8').on('data', (part) => (output += part));
        child.stderr.setEncoding('utf8').on('data', (part) => (output += part));
        const end = (code) => {
            clearTimeout(timer);
            running.delete(child);
            done({ code, output: late ? `${output}\nkilled: not done within ${within} ms` : output });
        };
        child.on('error', (error) => {
            output += error.message;
            end(-1);
        });
        child.on('close', (code) => end(code ?? -1));
    });
}

const given = new Set();

/**
 * A port of loopback where nobody listens, each one once. From below those that the kernel gives out:
 * asked for any port it gives the same one twice, since the first is not bound yet.
 */
export async function freePort() {
    for (let tries = 0; tries < 1000; tries++) {
        const port = 10_000 + Math.floor(10_000 * Math.random());
        if (given.has(port)) continue;
        given.add(port);
        if (await isFree(port)) return port;
    }
    throw new Error('no free port from 10000 to 20000');
}

function isFree(port) {
    return new Promise((done) => {
        const probe = createServer();
        probe.on('error', () => done(false));
        probe.listen(port, '127.0.0.1', () => probe.close(() => done(true)));
    });
}

export function tail(file, lines = 20) {
    try {
        return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
    } catch {
        return '';
    }
}
