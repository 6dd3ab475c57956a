#!/usr/bin/env bash
# The interop tests: the official conformance suite, the official SDKs' clients and published
# servers, all through the gateway binary $HOLDFAST_BIN.
#
#   run.sh [--only GROUP] [--match REGEX] [--direct]
#
# --match picks among the pairs of client and server by name ("py2 .* -> ts stdio"); --direct leaves
# the gateway out, to prove the tests themselves.
#
# Prints a line a group and ends with `N passed, N failed`; exits with 0 only if nothing failed.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export HOLDFAST_TOOLS="${HOLDFAST_TOOLS:-$(cd "$here/../.." && pwd)/.tools}"
"$here/setup.sh"
HOLDFAST_TOOLS="$(cd "$HOLDFAST_TOOLS" && pwd)"
if [[ -n "${HOLDFAST_BIN:-}" ]]; then
    [[ -x "$HOLDFAST_BIN" ]] || {
        echo "run.sh: HOLDFAST_BIN=$HOLDFAST_BIN is no program" >&2
        exit 2
    }
    HOLDFAST_BIN="$(realpath "$HOLDFAST_BIN")"
    export HOLDFAST_BIN
fi
exec "$HOLDFAST_TOOLS/node_modules/.bin/node" "$here/run.mjs" "$@"
