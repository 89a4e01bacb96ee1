"""Everything that ``culvert analyze`` can say: codes, levels, and one finding.

Codes that begin with IST are Istio's and mean the same; CUL are Culvert's own. A code never changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from meshctl.output import Table


class Level(StrEnum):
    """How bad it is, from the mildest on."""

    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"

    @property
    def rank(self) -> int:
        """Position, to compare levels."""
        return list(Level).index(self)


class Code(Enum):
    """A kind of finding: code, level, and what it means in a few words."""

    REFERENCED = ("IST0101", Level.ERROR, "what an object names does not exist")
    INVALID = ("IST0106", Level.ERROR, "the object cannot be read; the control plane keeps its last good form")
    PORT_NAME = ("IST0118", Level.INFO, "the name of a port says no protocol")
    CHOOSES_NOTHING = ("IST0127", Level.WARNING, "a selector chooses no workload")
    UNREACHABLE = ("IST0130", Level.WARNING, "a rule is never reached")
    GATEWAY_HOST = ("IST0132", Level.WARNING, "a host of a VirtualService is no host of its Gateway")
    GATEWAY_CONFLICT = ("IST0145", Level.ERROR, "an older Gateway has the port, or the host, of the same pods")
    GATEWAY_PORT = ("IST0162", Level.WARNING, "no Service of a Gateway's pods has the port of a server")
    UNKNOWN_FIELD = ("CUL0101", Level.WARNING, "a field is not known and ignored")
    LAYER_7 = ("CUL0102", Level.WARNING, "a rule needs a waypoint; without one it means less or more than it says")
    ACTION = ("CUL0103", Level.WARNING, "an action needs a waypoint")
    ALLOWS_NOTHING = ("CUL0104", Level.INFO, "a policy without rules refuses everything")
    DENIES_NOTHING = ("CUL0105", Level.WARNING, "a policy without rules does nothing")
    DRY_RUN = ("CUL0106", Level.INFO, "a dry run decides nothing")
    NOT_ENFORCED = ("CUL0107", Level.WARNING, "a policy chooses workloads that are not in the mesh")
    PORTS_WITHOUT_SELECTOR = ("CUL0110", Level.ERROR, "modes of single ports need a selector")
    MODE_DISABLE = ("CUL0111", Level.INFO, "DISABLE is taken for PERMISSIVE")
    ROOT_SELECTOR = ("CUL0112", Level.ERROR, "a selector in the root namespace chooses nothing")
    SHADOWED = ("CUL0113", Level.WARNING, "of several objects for the same workloads the oldest counts")
    HOST_TAKEN = ("CUL0120", Level.WARNING, "a host belongs to an older object")
    NO_ENDPOINTS = ("CUL0121", Level.WARNING, "a host has no endpoints")
    NOT_CAPTURED = ("CUL0130", Level.WARNING, "a pod of an enrolled namespace is not captured")
    MODE_LABEL = ("CUL0131", Level.WARNING, "a value of the enrolment label is not known")
    SIDECAR = ("CUL0132", Level.INFO, "a pod with a sidecar is not captured")
    EGRESS_LABEL = ("CUL0133", Level.WARNING, "the egress label has a value that is not known, or no effect")
    NETWORK_POLICY_BLOCKS = ("CUL0140", Level.WARNING, "a NetworkPolicy blocks the mesh's port 15008")
    NETWORK_POLICY_PORTS = ("CUL0141", Level.INFO, "port 15008 is open, so a NetworkPolicy no longer restricts ports")
    MESH_CONFIG_VALUE = (
        "CUL0150",
        Level.ERROR,
        "a value of the mesh configuration is not valid; its last good one stays",
    )
    MESH_CONFIG_FIELD = ("CUL0151", Level.WARNING, "a field of the mesh configuration has no effect, or not Istio's")
    NOT_DISCOVERED = ("CUL0152", Level.ERROR, "an enrolled namespace is not selected by discoverySelectors")

    NO_WAYPOINT = ("CUL0160", Level.WARNING, "routes or settings of a host without a waypoint have no effect")

    def __init__(self, code: str, level: Level, meaning: str) -> None:
        self.code = code
        self.level = level
        self.meaning = meaning


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one object.

    Attributes:
        code: what kind of thing.
        kind: of the object.
        namespace: of the object; empty where it has none.
        name: of the object.
        field: path of the field at fault; may be empty.
        text: what is wrong, and what to do, without a full stop.
        origin: file that the object is from; empty for the cluster.
    """

    code: Code
    kind: str
    namespace: str
    name: str
    field: str
    text: str
    origin: str = ""

    @property
    def where(self) -> str:
        """The object, as people write it."""
        return f"{self.kind} {'/'.join(filter(None, (self.namespace, self.name)))}"

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        origin = f" ({self.origin})" if self.origin else ""
        return f"{self.code.level} [{self.code.code}] ({self.where}{origin}) {field}{self.text}"

    @property
    def document(self) -> Mapping[str, Any]:
        """The same for programs."""
        return {
            "code": self.code.code,
            "level": self.code.level.value,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "field": self.field,
            "message": self.text,
            "origin": self.origin,
        }


def catalog() -> Table:
    """Return all codes, for the documentation and for people."""
    return Table(("CODE", "LEVEL", "MEANING"), [(one.code, one.level.value, one.meaning) for one in Code])
