"""What a database lacks of the last minute of a process, or has without its knowledge: a failover may lose commits."""

from __future__ import annotations

import logging

from codellama_proxy.limits.admission import Settlement
from codellama_proxy.store.postgres.operations import HoldAgain, Operation, Settle
from codellama_proxy.store.postgres.requests_in_memory import RequestsInMemory
from codellama_proxy.store.postgres.scope_rows import SQL
from codellama_proxy.store.postgres.session import PostgresSession

CRASH_ESTIMATE = "crash_estimate"
"""The basis of what another process settled."""

log = logging.getLogger(__name__)


def missing(db: PostgresSession, worker: int, memory: RequestsInMemory) -> list[list[Operation]]:
    """Operations that put the database right, in groups to be run one after the other.

    Lost requests are held again, lost settlements repeated, and held rows that the process does not know are settled.
    """
    held = {name for (name,) in db.native(SQL["own_held"], (worker,)).fetchall()}
    ended = {one.end.request_id: one for one in memory.ended}
    names = [*memory.running, *ended]
    settled = dict(db.native(SQL["known_settled"], (names,)).fetchall())
    for name in settled.keys() & memory.running.keys():
        memory.gone(name, repeated=settled[name] != CRASH_ESTIMATE)
    lost = [row for name, row in memory.running.items() if name not in held]
    lost += [one.row for name, one in ended.items() if name not in settled and name not in held]
    unsettled = [one.end for name, one in ended.items() if name not in settled]
    unknown = held - memory.running.keys() - ended.keys()
    if lost or unsettled:
        log.warning(
            "the database lost %d requests and %d settlements; putting them back", len(lost), len(unsettled)
        )
    return [
        [HoldAgain(row) for row in lost],
        [Settle(end) for end in unsettled],
        [Settle(Settlement(name, "error", 503, basis="exact")) for name in sorted(unknown)],
    ]
