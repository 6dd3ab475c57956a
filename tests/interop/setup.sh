#!/usr/bin/env bash
# Installs what the interop tests run: Node 22, the official conformance suite, the SDKs and the
# published servers, each in an exact version. Everything goes below $HOLDFAST_TOOLS (default:
# .tools in the repository, which git ignores). Does nothing when that has been done already.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
tools="${HOLDFAST_TOOLS:-$(cd "$here/../.." && pwd)/.tools}"

die() {
    echo "interop setup: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null 2>&1 || die "\`$1\` is missing: $2"
}

need python3 "install Python 3.11 or newer"
need npm "install Node.js with npm; any version serves, the tests bring the Node they run on"
need sha256sum "install coreutils"
need flock "install util-linux"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "python3 is $(python3 -V 2>&1 | cut -d' ' -f2), but 3.11 or newer is needed"
python3 -c 'import ensurepip, venv' 2>/dev/null ||
    die "python3 cannot make virtual environments: install its venv package (python3-venv)"

mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"
exec 9>"$tools/.lock"
flock 9 # two runs at once would install over each other

# Scripts find their packages by looking up the folder tree, so the packages must appear there.
ln -sfn "$tools/node_modules" "$here/node_modules"

wanted="$(cat "$here"/tools/{package.json,package-lock.json,.npmrc,requirements-py1.txt,requirements-py2.txt} "$here/setup.sh" | sha256sum)"
if [[ "$(cat "$tools/.installed" 2>/dev/null)" == "$wanted" ]]; then
    exit 0
fi
rm -f "$tools/.installed"

echo "interop setup: npm packages"
cp "$here"/tools/{package.json,package-lock.json,.npmrc} "$tools/"
(cd "$tools" && npm ci --no-audit --no-fund --loglevel=error) ||
    die "npm could not install the packages of tests/interop/tools/package.json"
version="$("$tools/node_modules/.bin/node" --version 2>/dev/null || true)"
if [[ "$version" != v22.* ]]; then
    # The package `node` fetches its binary in an install script, which npm may be set up to skip.
    (cd "$tools" && npm rebuild node --ignore-scripts=false --foreground-scripts --loglevel=error) || true
    version="$("$tools/node_modules/.bin/node" --version 2>/dev/null || true)"
    [[ "$version" == v22.* ]] || die "the npm package \`node\` brought no Node 22 (is npm set to ignore install scripts?)"
fi

for venv in py1 py2; do
    echo "interop setup: Python packages of $venv"
    rm -rf "${tools:?}/$venv"
    python3 -m venv "$tools/$venv" || die "python3 -m venv failed"
    "$tools/$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/tools/requirements-$venv.txt" ||
        die "pip could not install the packages of tests/interop/tools/requirements-$venv.txt"
done

echo "$wanted" >"$tools/.installed"
echo "interop setup: done, in $tools"
