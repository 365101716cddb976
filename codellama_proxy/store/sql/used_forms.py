"""Forms whose answer shows a secret, each used once in an installation, by whatever process."""

from __future__ import annotations

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.sql import queries

SQL = queries.load("used_forms")
KEPT_SECONDS = 30 * DAY
"""Longer than any session of the dashboard, which a form needs."""


def use_once(db: queries.Session, token: str | None, now: float) -> None:
    """Remember the token of a form, if there is one, in the transaction of its change.

    Raises `ProxyError` 400 if it was used before. `now`: unix seconds.
    """
    if token is None:
        return
    if db.execute(SQL["use"], {"token": token, "now": now}).fetchone() is None:
        message = "This form was sent before, so nothing was changed now. A secret is shown only once."
        raise ProxyError("invalid_value", message)
    db.execute(SQL["forget"], {"before": now - KEPT_SECONDS})
