"""The page of a book: ``/productpage`` for people, ``/api/v1/products`` for programs.

Reviews are asked for twice, three seconds each; a fault of four seconds between the services shows as an error here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote

from app import client
from app.bookinfo import page
from app.client import Answer
from app.web import Request, Response, as_json, port_from_command_line, serve

_TIMEOUT_S = 3.0
_REVIEW_ATTEMPTS = 2
_SESSION = "session"

PRODUCTS = (
    {
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": "One of Shakespeare&#8217;s early plays, and his shortest: twins separated at birth, "
        "with servants who are twins too, come to the same town on the same day. Mistaken identities, "
        "slapstick and puns follow until everybody meets.",
    },
)


@dataclass(frozen=True)
class Upstreams:
    """Where the other services are."""

    details: str
    reviews: str
    ratings: str


def from_environment(environment: Mapping[str, str]) -> Upstreams:
    """Read where the other services are."""
    domain = environment.get("SERVICES_DOMAIN", "")

    def url(service: str) -> str:
        host = environment.get(f"{service.upper()}_HOSTNAME", service) + (f".{domain}" if domain else "")
        return f"http://{host}:{environment.get(f'{service.upper()}_SERVICE_PORT', '9080')}/{service}"

    return Upstreams(details=url("details"), reviews=url("reviews"), ratings=url("ratings"))


@dataclass(frozen=True)
class ProductPage:
    """The service."""

    upstreams: Upstreams

    def show(self, request: Request) -> Response:
        """Answer with the page of the first book, asking as the user who is signed in."""
        user = signed_in(request)
        product = PRODUCTS[0]
        details = self._ask(request, self.upstreams.details, product["id"])
        reviews = self._ask(request, self.upstreams.reviews, product["id"], attempts=_REVIEW_ATTEMPTS)
        html = page.render(product, details, reviews, user=user)
        return Response(html.encode(), content_type="text/html; charset=utf-8")

    def products(self, _: Request) -> Response:
        """Answer with all books."""
        return as_json(PRODUCTS)

    def details(self, request: Request, book: str) -> Response:
        """Answer with the details of a book."""
        return _passed_on(self._ask(request, self.upstreams.details, book), "details")

    def reviews(self, request: Request, book: str) -> Response:
        """Answer with the reviews of a book."""
        answer = self._ask(request, self.upstreams.reviews, book, attempts=_REVIEW_ATTEMPTS)
        return _passed_on(answer, "reviews")

    def ratings(self, request: Request, book: str) -> Response:
        """Answer with the ratings of a book."""
        return _passed_on(self._ask(request, self.upstreams.ratings, book), "ratings")

    def _ask(self, request: Request, service: str, book: object, *, attempts: int = 1) -> Answer:
        return client.fetch(f"{service}/{book}", headers=handed_on(request), timeout_s=_TIMEOUT_S, attempts=attempts)


def handed_on(request: Request) -> dict[str, str]:
    """Return the headers for the other services; who is signed in here is the end user there."""
    user = signed_in(request)
    headers = {name: value for name, value in request.propagated.items() if name != "cookie"}
    return headers | ({"end-user": user} if user else {})


def signed_in(request: Request) -> str:
    """Return who is signed in; anybody may be anybody in a sample."""
    pairs = [part.strip().partition("=") for part in request.headers.get("cookie", "").split(";")]
    return next((unquote(value) for name, _, value in pairs if name == _SESSION), "")


def login(request: Request) -> Response:
    """Sign in by the form of the page; there are no passwords."""
    user = parse_qs(request.body.decode()).get("username", [""])[0]
    return _to_page(f"{_SESSION}={quote(user)}; Path=/; HttpOnly; SameSite=Lax")


def logout(_: Request) -> Response:
    """Sign out."""
    return _to_page(f"{_SESSION}=; Path=/; Max-Age=0")


def index(_: Request) -> Response:
    """Lead to the page."""
    return Response(page.render_index().encode(), content_type="text/html; charset=utf-8")


def health(_: Request) -> Response:
    """Say that the service is there."""
    return Response(b"Product page is healthy")


def _to_page(cookie: str) -> Response:
    return Response(status=302, headers=(("Location", "/productpage"), ("Set-Cookie", cookie)))


def _passed_on(answer: Answer, what: str) -> Response:
    if answer.document is None:
        return as_json({"error": f"Sorry, product {what} are currently unavailable for this book."}, answer.status)
    return as_json(answer.document, answer.status)


def routes(service: ProductPage) -> tuple[tuple[str, object], ...]:
    """Return the routes of the service."""
    return (
        ("GET /", index),
        ("GET /index.html", index),
        ("GET /productpage", service.show),
        ("GET /health", health),
        ("POST /login", login),
        ("GET /logout", logout),
        ("GET /api/v1/products", service.products),
        (r"GET /api/v1/products/(\d+)", service.details),
        (r"GET /api/v1/products/(\d+)/reviews", service.reviews),
        (r"GET /api/v1/products/(\d+)/ratings", service.ratings),
    )


if __name__ == "__main__":
    serve(routes(ProductPage(from_environment(os.environ))), port=port_from_command_line(9080))
