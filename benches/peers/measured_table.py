#!/usr/bin/env python3
"""Writes the table of docs/measured.md, from what the bench's judge.py found.

usage: measured_table.py RESULT.json [RESULT.json ...]

Each RESULT is of a timed run on a quiet machine, for example
    python3 ../shared/bench/judge.py --models resnet20_cifar10,kws_dscnn --parts int8,nodata --seconds 0.6 --eval 128 --json RESULT.json
The rows between the marks in docs/measured.md become those models, in the order in which they are found.
"""
import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/measured.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
HEAD = """| model | size | error | metric, float → int8 | time | peer: size · error · metric · time | without samples: size · error · time |
|---|---|---|---|---|---|---|"""


def text(row, key, form):
    """A figure, or a dash where there is none."""
    return format(row[key], form) if row.get(key) is not None else "–"


def line(name, int8, nodata):
    """The row of one model."""
    metric = f"{text(int8, 'metric_float', '.3g')} → {text(int8, 'metric', '.3g')}"
    peer = [("size_of_peer", ".3g"), ("rel_of_peer", ".3g"), ("metric_of_peer", ".3g"), ("latency_of_peer", ".3g")]
    without = [("size", ".2f"), ("rel", ".3g"), ("latency", ".2f")]
    cells = [name, text(int8, "size", ".2f"), text(int8, "rel", ".3g"), metric, text(int8, "latency", ".2f"),
             " · ".join(text(int8, key, form) for key, form in peer),
             " · ".join(text(nodata, key, form) for key, form in without)]
    return "| " + " | ".join(cells) + " |"


def main():
    found = {}
    for path in sys.argv[1:]:
        for key, row in json.loads(Path(path).read_text()).items():
            name, part = key.rsplit(".", 1)
            found.setdefault(name, {})[part] = row
    rows = [line(name, parts["int8"], parts.get("nodata", {})) for name, parts in found.items() if "int8" in parts]
    if not rows:
        sys.exit("no model with an int8 result: nothing was changed")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([before + BEGIN, HEAD, *rows, END + after]))


if __name__ == "__main__":
    main()
