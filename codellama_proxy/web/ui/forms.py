"""The fields of a form that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.http import receive_body

MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 100
FORM = b"application/x-www-form-urlencoded"


async def form(request: Request, limit: int = MAX_FORM_BYTES) -> Mapping[str, str]:
    """The fields, without surrounding white space; of one sent twice, the last. Raises `ProxyError` 4xx."""
    body = await receive_body(request.scope, request.receive, limit, kind=FORM)
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except UnicodeError:
        raise ProxyError("invalid_encoding", "The form is not valid UTF-8.") from None
    except ValueError:
        raise ProxyError("invalid_value", f"The form has more than {MAX_FIELDS} fields.") from None
    return {name: value.strip() for name, value in fields}
