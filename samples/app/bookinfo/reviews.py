"""Reviews of a book: ``/reviews/<id>``. Version 1 has no stars, version 2 black ones, version 3 red ones.

The environment picks the version: ``ENABLE_RATINGS`` and ``STAR_COLOR``. Black stars wait longer for the ratings than
red ones do; the tasks about faults and timeouts show it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from app import client
from app.web import Request, Response, as_json, port_from_command_line, serve

_TEXTS = {
    "Reviewer1": "Two pairs of twins, one confusion after the other, and not a dull line: a play to laugh out loud at.",
    "Reviewer2": "Funny from the first scene to the last, if lighter than what Shakespeare wrote in later years.",
}
_UNAVAILABLE = "Ratings service is currently unavailable"


@dataclass(frozen=True)
class Settings:
    """Which version this is and where the ratings are."""

    ratings: bool
    color: str
    ratings_url: str
    pod: str
    cluster: str

    @property
    def timeout_s(self) -> float:
        """How long to wait for the ratings."""
        return 10.0 if self.color == "black" else 2.5


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings."""
    domain = environment.get("SERVICES_DOMAIN", "")
    host = environment.get("RATINGS_HOSTNAME", "ratings") + (f".{domain}" if domain else "")
    return Settings(
        ratings=environment.get("ENABLE_RATINGS", "false").lower() == "true",
        color=environment.get("STAR_COLOR", "black"),
        ratings_url=f"http://{host}:{environment.get('RATINGS_SERVICE_PORT', '9080')}/ratings",
        pod=environment.get("HOSTNAME", ""),
        cluster=environment.get("CLUSTER_NAME", "null"),
    )


@dataclass(frozen=True)
class Reviews:
    """The service."""

    settings: Settings

    def read(self, request: Request, book: str) -> Response:
        """Answer with the reviews of a book."""
        stars = self._stars(request, book) if self.settings.ratings else None
        return as_json(document(book, self.settings, stars))

    def _stars(self, request: Request, book: str) -> Mapping[str, int]:
        url = f"{self.settings.ratings_url}/{book}"
        answer = client.fetch(url, headers=request.propagated, timeout_s=self.settings.timeout_s)
        return answer.document["ratings"] if answer.status == 200 else {}


def document(book: str, settings: Settings, stars: Mapping[str, int] | None) -> dict[str, object]:
    """Return the answer; ``stars`` is None in version 1, and lacks a reviewer whose rating did not come."""
    reviews = []
    for reviewer, text in _TEXTS.items():
        review: dict[str, object] = {"reviewer": reviewer, "text": text}
        if stars is not None:
            given = stars.get(reviewer)
            review["rating"] = (
                {"stars": given, "color": settings.color} if given is not None else {"error": _UNAVAILABLE}
            )
        reviews.append(review)
    return {"id": book, "podname": settings.pod, "clustername": settings.cluster, "reviews": reviews}


def health(_: Request) -> Response:
    """Say that the service is there."""
    return as_json({"status": "Reviews is healthy"})


if __name__ == "__main__":
    service = Reviews(from_environment(os.environ))
    serve(((r"GET /reviews/(\d+)", service.read), ("GET /health", health)), port=port_from_command_line(9080))
