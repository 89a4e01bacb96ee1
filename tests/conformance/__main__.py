"""Run the suite: a lab, Culvert, what a part of the suite needs, and its tests; writes its report.

``python -m tests.conformance mesh|gateway [TEST]``: all tests of the part's profiles, or one by its name.
Status 1: a test has failed.
"""

import os
import subprocess
import sys
from typing import Final

import yaml

from meshlab import programs
from tests.conformance.suites import SUITES, Suite
from tests.support.lab import ROOT, Lab, install, running

LAB: Final = os.environ.get("CULVERT_CONFORMANCE_LAB", "conformance")
REPORTS: Final = ROOT / "docs" / "conformance"
IDENTITY: Final = {
    "organization": "Culvert",
    "project": "Culvert",
    "url": "https://culvert.dev",
    "contact": "https://culvert.dev",
}


def run(suite: Suite, lab: Lab, test: str) -> int:
    """Run a part of the suite, or one test of it; returns the status."""
    version = yaml.safe_load((ROOT / "deploy/helm/culvert/Chart.yaml").read_text())["appVersion"]
    program = programs.gateway_conformance(print) / "conformance"
    options = [f"--{name}={value}" for name, value in IDENTITY.items()]
    options += [f"--version={version}", f"--supported-features={','.join(suite.features)}"]
    options += [f"--conformance-profiles={','.join(suite.profiles)}", "--cleanup-base-resources=false"]
    options += suite.options
    if test:
        options += [f"--run-test={test}", "-test.v"]
    else:
        REPORTS.mkdir(exist_ok=True)
        options.append(f"--report-output={REPORTS / suite.name}.yaml")
    command = [str(program), "-test.timeout=90m", *options]
    return subprocess.run(command, env=os.environ | {"KUBECONFIG": str(lab.kubeconfig)}, check=False).returncode


def main() -> int:
    """Run what the command line names; returns the status."""
    suite = SUITES[sys.argv[1]]
    test = sys.argv[2] if len(sys.argv) > 2 else ""
    with running(LAB, nodes=2, extra=suite.images()) as lab:
        install(lab, *suite.install)
        suite.prepare(lab)
        status = run(suite, lab, test)
    report = REPORTS / f"{suite.name}.yaml"
    if not test and report.exists():
        for profile in yaml.safe_load(report.read_text())["profiles"]:
            print(f"{profile['name']}: {profile['summary']}")
    return status


if __name__ == "__main__":
    sys.exit(main())
