"""Drives one URL with the Python SDK of its virtual environment and asserts everything a session can do.

    run.py --url URL --era legacy|auto|modern --transport http|sse|ws [--expect-era ERA]
"""

import argparse
import importlib
import importlib.metadata
import sys

import anyio
from checks import Checks
from surface import check_surface


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--era", choices=["legacy", "auto", "modern"], default="legacy")
    parser.add_argument("--transport", choices=["http", "sse", "ws"], default="http")
    parser.add_argument("--expect-era", choices=["legacy", "modern"])
    target = parser.parse_args()

    line = importlib.metadata.version("mcp").split(".")[0]
    sdk = importlib.import_module(f"py{line}")
    checks = Checks({"client": sdk.NAME, "era": target.era, "transport": target.transport})
    anyio.run(check_surface, checks, sdk, target)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
