"""Run the suite: a lab, Culvert, waypoints in the suite's namespaces, and the suite itself; writes its report.

``python -m tests.conformance [TEST]``: all tests of the profiles, or one by its name. Status 1: a test has failed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import yaml

from meshapi import names
from meshlab import images, product, programs
from meshlab.images import Archive, Image
from meshlab.programs import Say
from tests.support.lab import ROOT, Lab, install, running
from tests.support.mesh import Mesh

LAB: Final = os.environ.get("CULVERT_CONFORMANCE_LAB", "conformance")
REPORT: Final = ROOT / "docs" / "conformance" / "mesh.yaml"
PROFILES: Final = ("MESH-HTTP", "MESH-GRPC")
FEATURES: Final = (
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "GRPCRoute",
)
"""All extended features of the profiles, and what their tests need besides."""
NAMESPACES: Final = ("gateway-conformance-mesh", "gateway-conformance-mesh-consumer")
IDENTITY: Final = {
    "organization": "Culvert",
    "project": "Culvert",
    "url": "https://culvert.dev",
    "contact": "https://culvert.dev",
}


def echo(say: Say) -> Archive:
    """The image of the suite's application."""
    manifests = programs.gateway_conformance_sources() / "mesh" / "manifests.yaml"
    wanted = set(re.findall(r"image: (\S+)", manifests.read_text()))
    (name,) = wanted
    here = Path(__file__).parent
    return images.build(Image(name, here / "Dockerfile", here, base=product.runtime(say)), say)


def prepare(lab: Lab) -> None:
    """Make the suite's namespaces, enrolled and with a waypoint each."""
    mesh = Mesh(lab)
    for name in NAMESPACES:
        mesh.namespace(name, enrolled=True)
        mesh.waypoint(name)


def main() -> int:
    """Run the suite; returns the status."""
    version = yaml.safe_load((ROOT / "deploy/helm/culvert/Chart.yaml").read_text())["appVersion"]
    with running(LAB, nodes=2, extra=[echo]) as lab:
        install(lab)
        prepare(lab)
        program = programs.gateway_conformance(print) / "conformance"
        options = [f"--{name}={value}" for name, value in IDENTITY.items()]
        options += [f"--version={version}", f"--supported-features={','.join(FEATURES)}"]
        options += [f"--conformance-profiles={','.join(PROFILES)}", "--cleanup-base-resources=false"]
        labels = {names.DATAPLANE_MODE_LABEL: names.DATAPLANE_MODE_AMBIENT, names.USE_WAYPOINT_LABEL: "waypoint"}
        options.append(f"--namespace-labels={','.join(f'{key}={value}' for key, value in labels.items())}")
        if len(sys.argv) > 1:
            options += [f"--run-test={sys.argv[1]}", "-test.v"]
        else:
            REPORT.parent.mkdir(exist_ok=True)
            options.append(f"--report-output={REPORT}")
        command = [str(program), "-test.timeout=60m", *options]
        status = subprocess.run(command, env=os.environ | {"KUBECONFIG": str(lab.kubeconfig)}, check=False).returncode
    if len(sys.argv) == 1 and REPORT.exists():
        for profile in yaml.safe_load(REPORT.read_text())["profiles"]:
            print(f"{profile['name']}: {profile['summary']}")
    return status


if __name__ == "__main__":
    sys.exit(main())
