"""`obverse selftest`."""

from __future__ import annotations

import json as encoder
import os
import sys

from obverse.cli import options
from obverse.cli.exit import ExitCode
from obverse.cli.jobs import tracked


def selftest(json: options.JsonOption = False) -> ExitCode:
    """Compare exact arithmetic on this machine with what is recorded, by small models of every kind."""
    # Layers here are small: threads that wait for work must not take the processor from those that have some.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from obverse.selftest import run
    from obverse.selftest.cases import all_cases

    cases, settings, recorded = all_cases(), run.settings(), run.golden()
    outcomes = list(tracked(run.check(cases, settings, recorded), len(cases)))
    report = run.report(outcomes, settings)
    if json:
        print(encoder.dumps(report, indent=2))
    else:
        for name, places in report["differing"].items():
            rest = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
            print(f"obverse: {name}: {places[0]}{rest}", file=sys.stderr)
        print(f"torch {report['torch']}, {report['system']}")
        for device, found in report["devices"].items():
            print(f"{device}: backends {', '.join(found['backends'])}, of which {found['fastest']} is fastest")
        print(run.verdict(report))
    return ExitCode.DONE if report["exact"] else ExitCode.DIVERGED
