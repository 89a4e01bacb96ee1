"""An external authorizer over HTTP: it allows requests with the header ``x-ext-authz: allow``."""

from app.web import Request, Response, port_from_command_line, serve

_HEADER = "x-ext-authz"
_RESULT = "x-ext-authz-check-result"
_RECEIVED = "x-ext-authz-check-received"


def check(request: Request, *_: str) -> Response:
    """Answer 200 for a request that is allowed, and 403 with the reason for others."""
    allowed = request.headers.get(_HEADER) == "allow"
    headers = ((_RESULT, "allowed" if allowed else "denied"), (_RECEIVED, f"{request.method} {request.path}"))
    if allowed:
        return Response(headers=headers)
    return Response(f"denied: the request has no header {_HEADER}: allow\n".encode(), 403, headers=headers)


ROUTES = ((r"* /(.*)", check),)

if __name__ == "__main__":
    serve(ROUTES, port=port_from_command_line(8000))
