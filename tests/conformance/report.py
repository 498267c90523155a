#!/usr/bin/env python3
"""Says what JUnit reports of Kubernetes' tests say: numbers for each special interest group, each test that failed, and those that failed at first.

Use: report.py [--failed] REPORT... A later report of a test takes the place of an earlier one. With --failed, a pattern of the failed tests' names alone. Exits with 1
if a test failed.
"""

import collections
import re
import sys
import xml.etree.ElementTree as ElementTree


# In place of a message: the test itself found that it can't be run here.
SKIPPED = object()


def read(path):
    """What was run: name to the message of its failure, SKIPPED, or None."""
    results = {}
    for case in ElementTree.parse(path).iter("testcase"):
        parts = {part.tag: part.get("message") or "it says nothing" for part in case}
        # The labels stand behind the name, and are no part of what a pattern is compared with.
        name = re.sub(r" \[[^][]*\]$", "", case.get("name").removeprefix("[It] "))
        wrong = parts.get("failure") or parts.get("error")
        # Of what stands around the tests, such as [SynchronizedBeforeSuite], nothing is told unless it failed.
        if wrong or (case.get("name").startswith("[It]") and "skipped" not in parts):
            results[name] = wrong
        elif parts.get("skipped", "").startswith("skipped - "):
            results[name] = SKIPPED
    return results


def main():
    only_failed = sys.argv[1] == "--failed"
    reports = [read(path) for path in sys.argv[1 + only_failed :]]
    last = {name: message for report in reports for name, message in report.items()}
    skipped = sorted(name for name, message in last.items() if message is SKIPPED)
    failed = {name: message for name, message in last.items() if message is not None and message is not SKIPPED}
    if only_failed:
        print("|".join(re.escape(name).replace("\\ ", " ") for name in failed if name.startswith("[sig-")))
        return
    groups = collections.Counter()
    for name in last:
        group = re.match(r"\[(sig-[a-z-]+)\]", name)
        groups[group[1] if group else "other", name in failed] += name not in skipped
    for group in sorted({group for group, _ in groups}):
        passed, wrong = groups[group, False], groups[group, True]
        print(f"{group}: {passed} of {passed + wrong} passed")
    for name in skipped:
        print(f"skipped: {name}")
    for name in sorted(last):
        if last[name] is None and any(report.get(name) for report in reports):
            print(f"failed at first, passed alone: {name}")
    for name, message in sorted(failed.items()):
        print(f"FAILED: {name}\n    {message.strip().splitlines()[0]}")
    passed = len(last) - len(failed) - len(skipped)
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main()
