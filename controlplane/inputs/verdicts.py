"""What is said of an object: a condition, before it has times."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's outcome; the reason is one of the API's."""

    is_true: bool = True
    reason: str = ""
    message: str = ""
