"""Details of a book: ``/details/<id>``."""

from app.web import Request, Response, as_json, port_from_command_line, serve


def details(_: Request, book: str) -> Response:
    """Answer with the details of a book."""
    return as_json(
        {
            "id": int(book),
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "publisher": "PublisherA",
            "language": "English",
            "ISBN-10": "1234567890",
            "ISBN-13": "123-1234567890",
        }
    )


def health(_: Request) -> Response:
    """Say that the service is there."""
    return as_json({"status": "Details is healthy"})


ROUTES = ((r"GET /details/(\d+)", details), ("GET /health", health))

if __name__ == "__main__":
    serve(ROUTES, port=port_from_command_line(9080))
