"""Ratings of a book: ``/ratings/<id>``; ``POST`` replaces them until the process ends."""

import json
import threading

from app.web import Request, Response, as_json, port_from_command_line, serve

_FIRST = {"Reviewer1": 5, "Reviewer2": 4}


class Ratings:
    """What reviewers gave, by book."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[int, dict[str, int]] = {}

    def read(self, _: Request, book: str) -> Response:
        """Answer with the ratings of a book."""
        with self._lock:
            return as_json({"id": int(book), "ratings": self._given.get(int(book), _FIRST)})

    def write(self, request: Request, book: str) -> Response:
        """Replace the ratings of a book."""
        try:
            given = {str(name): int(stars) for name, stars in json.loads(request.body).items()}
        except (ValueError, AttributeError):
            return as_json({"error": 'please send ratings as {"<reviewer>": <stars>}'}, 400)
        with self._lock:
            self._given[int(book)] = given
        return as_json({"id": int(book), "ratings": given})


def health(_: Request) -> Response:
    """Say that the service is there."""
    return as_json({"status": "Ratings is healthy"})


def routes(ratings: Ratings) -> tuple[tuple[str, object], ...]:
    """Return the routes of the service."""
    return ((r"GET /ratings/(\d+)", ratings.read), (r"POST /ratings/(\d+)", ratings.write), ("GET /health", health))


if __name__ == "__main__":
    serve(routes(Ratings()), port=port_from_command_line(9080))
