// The Rust client is a crate of its own (../rmcp), built here into the repository's target folder.

import { join } from 'node:path';
import { interop } from './fixtures.mjs';
import { run } from './processes.mjs';

const target = join(process.env.CARGO_TARGET_DIR || join(interop, '..', '..', 'target'), 'interop');
export const RMCP = join(target, 'debug', 'holdfast-interop-rmcp');

export function buildRmcp() {
    const manifest = join(interop, 'rmcp', 'Cargo.toml');
    const args = ['build', '--quiet', '--locked', '--manifest-path', manifest, '--target-dir', target];
    return run('cargo', args, { within: 900_000 });
}
