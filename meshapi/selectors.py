"""Label selectors of Kubernetes, with the meaning that ``labels.Selector`` of apimachinery gives them. Pure."""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field

from meshapi.resources.base import Fields


class Operator(StrEnum):
    """How a requirement compares a label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Fields):
    """One entry of ``matchExpressions``."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels meet the requirement; ``NotIn`` is met by labels without the key."""
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class LabelSelector(Fields):
    """``metav1.LabelSelector``: all pairs and all requirements together; an empty one matches everything."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an object with these labels is selected."""
        pairs = all(labels.get(key) == value for key, value in self.match_labels.items())
        return pairs and all(requirement.matches(labels) for requirement in self.match_expressions)
