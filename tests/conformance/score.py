"""Prints how each cache did, and fails if umbel fails a test that is not an exception."""

import json
import sys
from pathlib import Path

KINDS = ["required", "optimal", "check"]


def read_exceptions(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line.split(None, 1)[0]: line.split(None, 1)[1] for line in lines if line}


def main(folder, exceptions, *caches):
    folder, exceptions = Path(folder), read_exceptions(Path(exceptions))
    suites = json.loads((folder / "tests.json").read_text())
    tests = [test for suite in suites for test in suite["tests"] if not test.get("browser_only")]
    results = {cache: json.loads((folder / f"{cache}.json").read_text()) for cache in caches}
    kind = lambda test: test.get("kind", "required")
    print(f"{'':10}" + "".join(f"{name:>16}" for name in KINDS))
    for cache in caches:
        row = ""
        for name in KINDS:
            of_kind = [test for test in tests if kind(test) == name]
            passed = sum(results[cache].get(test["id"]) is True for test in of_kind)
            row += f"{passed:>10} of {len(of_kind):>2}"
        print(f"{cache:10}{row}")
    failed = {test["id"]: kind(test) for test in tests if kind(test) != "check" and results["umbel"].get(test["id"]) is not True}
    for test in sorted(set(exceptions) - set(failed)):
        print(f"passes though it is an exception: {test}")
    new = sorted(set(failed) - set(exceptions))
    for test in new:
        print(f"FAILS ({failed[test]}): {test}: {results['umbel'].get(test)}")
    print(f"{len(failed) - len(new)} exceptions, {len(new)} new failures")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
