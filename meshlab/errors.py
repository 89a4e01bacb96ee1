"""What can go wrong in the lab.

::

    LabError
    ├── MissingRequirement   this computer lacks something; the message says what and how to get it
    ├── BuildFailed          a program or an image could not be built; names the log file
    └── ComponentFailed      a component of Kubernetes did not start or did not get ready; names the log file
"""


class LabError(Exception):
    """One sentence for the person at the terminal: what failed, and the fix or the place to look."""


class MissingRequirement(LabError):
    """This computer lacks a tool, a kernel feature or a right that the lab needs."""


class BuildFailed(LabError):
    """A program or an image could not be built."""


class ComponentFailed(LabError):
    """A component of Kubernetes did not start or did not get ready in time."""
