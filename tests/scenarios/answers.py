"""What a client of a scenario got."""

from dataclasses import dataclass


@dataclass
class Answer:
    """What a client got."""

    status: int | None
    headers: dict[str, str]
    body: str
    took_s: float
    names: tuple[str, ...] = ()
    """In the server's certificate."""

    @property
    def version(self) -> str:
        return self.headers.get("x-version", "")

    @property
    def pod(self) -> str:
        return self.headers.get("x-pod", "")
