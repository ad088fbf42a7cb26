"""Fails when a crate that the program is built of has a licence that is not permissive.

usage: licences.py    (in the workspace; asks `cargo metadata`)
"""
import json
import re
import subprocess
import sys

PERMISSIVE = {
    "MIT", "MIT-0", "Apache-2.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unlicense", "0BSD",
    "CC0-1.0", "BlueOak-1.0.0", "BSL-1.0", "Unicode-3.0", "Unicode-DFS-2016", "NCSA",
}


def permissive(expression):
    """Whether one alternative of an SPDX expression asks for nothing but permissive licences."""
    text = re.sub(r"\s+WITH\s+[\w.-]+", "", expression.replace("/", " OR "))
    text = re.sub(r"[\w.-]+(?=\s|\)|$)", lambda word: word[0] if word[0] in ("AND", "OR") else str(word[0] in PERMISSIVE), text)
    return bool(eval(text.replace("AND", "and").replace("OR", "or"), {"__builtins__": {}}))  # only True, False, and, or, ()


def main():
    text = subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], capture_output=True, text=True, check=True)
    packages = json.loads(text.stdout)["packages"]
    bad = [(p["name"], p["version"], p["license"]) for p in packages if not (p["license"] and permissive(p["license"]))]
    for name, version, licence in bad:
        print(f"{name} {version}: licence {licence!r} is not on the list of permissive ones")
    print(f"{len(packages)} packages, {len(bad)} with a licence that does not fit")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
