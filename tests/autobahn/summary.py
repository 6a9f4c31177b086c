"""Counts the behaviours in a report of Autobahn's test suite, and names the cases that are not OK."""

import collections
import json
import sys

with open(sys.argv[1], encoding="utf-8") as report:
    cases = json.load(report)["online-status"]
for kind in ("behavior", "behaviorClose"):
    found = collections.defaultdict(list)
    for name in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
        found[cases[name][kind]].append(name)
    for behaviour, names in found.items():
        listed = "" if behaviour == "OK" else ": " + " ".join(names)
        print(f"{kind} {behaviour}: {len(names)}{listed}")
bad = [name for name in cases if cases[name]["behavior"] in ("FAILED", "WRONG CODE", "UNCLEAN")]
sys.exit(bool(bad) or not cases)
