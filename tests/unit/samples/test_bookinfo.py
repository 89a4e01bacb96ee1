"""Bookinfo's services and page."""

import json

import pytest
from app.bookinfo import details, page, productpage, ratings, reviews
from app.client import Answer
from app.web import Request, Response


def request(method: str = "GET", *, headers: dict[str, str] | None = None, body: bytes = b"") -> Request:
    given = headers or {}
    return Request(method, "/", {}, given, tuple(given.items()), body, "10.0.0.1")


def document(response: Response) -> object:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_details_have_the_fields_that_clients_read() -> None:
    answer = document(details.details(request(), "7"))
    assert isinstance(answer, dict)
    assert answer["id"] == 7
    assert {"author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"} <= set(answer)


def test_ratings_can_be_replaced() -> None:
    service = ratings.Ratings()
    assert document(service.read(request(), "0")) == {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    service.write(request("POST", body=b'{"Reviewer1": 1}'), "0")
    assert document(service.read(request(), "0")) == {"id": 0, "ratings": {"Reviewer1": 1}}
    assert service.write(request("POST", body=b"[]"), "0").status == 400


@pytest.mark.parametrize(
    ("environment", "stars", "expected"),
    [
        ({}, None, None),
        ({"ENABLE_RATINGS": "true"}, {"Reviewer1": 5, "Reviewer2": 4}, {"stars": 5, "color": "black"}),
        ({"ENABLE_RATINGS": "true", "STAR_COLOR": "red"}, {"Reviewer1": 2}, {"stars": 2, "color": "red"}),
        ({"ENABLE_RATINGS": "true"}, {}, {"error": "Ratings service is currently unavailable"}),
    ],
    ids=["v1", "v2", "v3", "ratings away"],
)
def test_reviews_by_version(
    environment: dict[str, str], stars: dict[str, int] | None, expected: dict[str, object] | None
) -> None:
    settings = reviews.from_environment(environment | {"HOSTNAME": "reviews-1"})
    answer = reviews.document("0", settings, stars)
    assert (answer["id"], answer["podname"], answer["clustername"]) == ("0", "reviews-1", "null")
    first = answer["reviews"][0]  # type: ignore[index]
    assert first["reviewer"] == "Reviewer1"
    assert first.get("rating") == expected


def test_tracing_headers_and_the_user_are_handed_on_and_others_are_not() -> None:
    headers = {"traceparent": "00-1-2-01", "x-request-id": "r", "cookie": "session=jason", "accept": "*/*"}
    handed = productpage.handed_on(request(headers=headers))
    assert handed == {"traceparent": "00-1-2-01", "x-request-id": "r", "end-user": "jason"}


def test_signing_in_sets_a_cookie_and_leads_back() -> None:
    response = productpage.login(request("POST", body=b"username=jason&passwd="))
    assert response.status == 302
    assert dict(response.headers)["Location"] == "/productpage"
    assert productpage.signed_in(request(headers={"cookie": dict(response.headers)["Set-Cookie"]})) == "jason"


def test_the_page_shows_stars_and_who_served_them() -> None:
    settings = reviews.from_environment({"ENABLE_RATINGS": "true", "STAR_COLOR": "red", "HOSTNAME": "reviews-v3-x"})
    shown = page.render(
        productpage.PRODUCTS[0],
        Answer(200, document(details.details(request(), "0"))),
        Answer(200, reviews.document("0", settings, {"Reviewer1": 5, "Reviewer2": 4})),
        user="<jason>",
    )
    assert "<title>Simple Bookstore App</title>" in shown
    assert shown.count('data-color="red"') == 2
    assert "reviews-v3-x" in shown
    assert "&lt;jason&gt;" in shown


def test_the_page_says_which_service_did_not_answer() -> None:
    shown = page.render(productpage.PRODUCTS[0], Answer(500, None), Answer(500, None), user="")
    assert "Error fetching product details!" in shown
    assert "Sorry, product reviews are currently unavailable for this book." in shown
