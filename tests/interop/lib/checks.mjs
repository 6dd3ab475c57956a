// A run of named checks: each prints one JSON line, the run ends with a summary line and an exit
// code. A check has a deadline, so that a lost answer is a failure and not a hang.

const DEADLINE_MS = 30_000;

export class Checks {
    #about;
    #passed = 0;
    #failed = 0;

    /** `about` says which client, era and transport this run is; it is part of every line. */
    constructor(about) {
        this.#about = about;
    }

    async check(name, run) {
        const from = performance.now();
        let error;
        let timer;
        const late = new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error(`no result within ${DEADLINE_MS} ms`)), DEADLINE_MS);
        });
        try {
            await Promise.race([run(), late]);
        } catch (caught) {
            error = caught instanceof Error ? `${caught.name}: ${caught.message}` : String(caught);
        } finally {
            clearTimeout(timer);
        }
        if (error === undefined) this.#passed++;
        else this.#failed++;
        const ms = Math.round(performance.now() - from);
        console.log(JSON.stringify({ ...this.#about, check: name, ok: error === undefined, ms, ...(error && { error }) }));
        return error === undefined;
    }

    /** Prints the summary and leaves with 0 only if every check passed and there was at least one. */
    finish() {
        console.log(JSON.stringify({ ...this.#about, passed: this.#passed, failed: this.#failed }));
        process.exit(this.#failed === 0 && this.#passed > 0 ? 0 : 1);
    }
}

export function expect(condition, what) {
    if (!condition) throw new Error(what);
}

export function equal(got, wanted, what) {
    const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
    expect(a === b, `${what}: got ${clip(a)}, wanted ${clip(b)}`);
}

/** Asks until the answer is there; for what arrives on its own time. */
export async function eventually(ask, what, { every = 100, within = 15_000 } = {}) {
    const end = performance.now() + within;
    for (;;) {
        const answer = await ask();
        if (answer) return answer;
        expect(performance.now() < end, `${what}: not within ${within} ms`);
        await new Promise((done) => setTimeout(done, every));
    }
}

const clip = (value) => (value?.length > 300 ? `${value.slice(0, 300)}… (${value.length} characters)` : value);
