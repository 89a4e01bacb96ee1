"""The HTML of the product page. Pure: answers in, text out."""

from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

from app.client import Answer

_STARS = 5
_STYLE = """
:root { --ink: #1d2430; --soft: #5d6878; --line: #e3e7ee; --paper: #fff; --back: #f4f6fa; --accent: #1f5eff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf3; --soft: #9aa5b8; --line: #2c3544; --paper: #1a202b; --back: #11151d; --accent: #7aa2ff; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--back); }
header { display: flex; align-items: center; justify-content: space-between; gap: 1rem; flex-wrap: wrap;
  padding: 1rem max(1rem, calc(50vw - 30rem)); background: var(--paper); border-bottom: 1px solid var(--line); }
header strong { font-size: 1.1rem; letter-spacing: .01em; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1rem 4rem; }
h1 { font: 600 2.4rem/1.2 Georgia, serif; margin: 0 0 .6rem; }
h2 { font-size: 1rem; text-transform: uppercase; letter-spacing: .08em; color: var(--soft); margin: 0 0 1rem; }
.lead { max-width: 42rem; color: var(--soft); font-size: 1.1rem; margin: 0 0 2.5rem; }
.columns { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: .8rem; padding: 1.5rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .4rem 1.5rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; text-align: right; }
blockquote { margin: 0 0 1.5rem; } blockquote p { margin: 0 0 .3rem; }
cite { color: var(--soft); font-style: normal; }
.stars { letter-spacing: .15em; font-size: 1.2rem; } .stars .off { opacity: .2; }
.stars.black { color: var(--ink); } .stars.red { color: #d92c3a; }
.fault { color: #b3261e; background: #fdecea; border-radius: .5rem; padding: .6rem .9rem; margin: 0; }
.served { color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); padding-top: .8rem; margin: 0; }
form { display: flex; gap: .5rem; } a { color: var(--accent); }
input, button { font: inherit; padding: .3rem .8rem; border-radius: .5rem; border: 1px solid var(--line);
  background: var(--back); color: inherit; }
button { background: var(--accent); border-color: var(--accent); color: var(--paper); cursor: pointer; }
"""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simple Bookstore App</title>
<style>$style</style>
</head>
<body>
<header><strong>BookInfo Sample</strong>$session</header>
<main>$content</main>
</body>
</html>
""")
_SIGN_IN = """<form method="post" action="login"><input name="username" placeholder="User name" aria-label="User name"
 required><button>Sign in</button></form>"""


def render(product: Mapping[str, Any], details: Answer, reviews: Answer, *, user: str) -> str:
    """Return the page of a book; what a service did not answer is said in its place."""
    session = f'<span>{escape(user)} · <a href="logout">sign out</a></span>' if user else _SIGN_IN
    content = (
        f"<h1>{escape(product['title'])}</h1><p class=lead>{product['descriptionHtml']}</p><div class=columns>"
        f"<section class=card><h2>Book Details</h2>{_details(details)}</section>"
        f"<section class=card><h2>Book Reviews</h2>{_reviews(reviews)}</section></div>"
    )
    return _PAGE.substitute(style=_STYLE, session=session, content=content)


def render_index() -> str:
    """Return the page that leads to the book."""
    content = (
        "<h1>A bookstore of four services</h1><p class=lead>The product page asks for details and reviews; reviews "
        'come in three versions, and two of them ask for ratings. <a href="productpage">See the book</a>.</p>'
    )
    return _PAGE.substitute(style=_STYLE, session="", content=content)


def _details(answer: Answer) -> str:
    if answer.document is None:
        return _fault("details", "Error fetching product details!")
    shown = {
        "Type": "type",
        "Pages": "pages",
        "Publisher": "publisher",
        "Language": "language",
        "ISBN-10": "ISBN-10",
        "ISBN-13": "ISBN-13",
    }
    rows = (f"<dt>{label}</dt><dd>{escape(str(answer.document.get(key, '')))}</dd>" for label, key in shown.items())
    return f"<dl>{''.join(rows)}</dl>"


def _reviews(answer: Answer) -> str:
    if answer.document is None:
        return _fault("reviews", "Error fetching product reviews!")
    reviews = "".join(_review(review) for review in answer.document["reviews"])
    return f"{reviews}<p class=served>Reviews served by: {escape(answer.document['podname'])}</p>"


def _review(review: Mapping[str, Any]) -> str:
    rating = review.get("rating")
    stars = "" if rating is None else _rating(rating)
    return f"<blockquote><p>{escape(review['text'])}</p><cite>{escape(review['reviewer'])}</cite>{stars}</blockquote>"


def _rating(rating: Mapping[str, Any]) -> str:
    if "stars" not in rating:
        return f"<p class=fault>{escape(rating.get('error', 'no rating'))}</p>"
    given = max(0, min(_STARS, int(rating["stars"])))
    color = "red" if rating.get("color") == "red" else "black"
    stars = "★" * given + f"<span class=off>{'★' * (_STARS - given)}</span>"
    return f'<div class="stars {color}" data-color="{color}" aria-label="{given} of {_STARS} stars">{stars}</div>'


def _fault(what: str, title: str) -> str:
    return f"<p class=fault>{title} Sorry, product {what} are currently unavailable for this book.</p>"
