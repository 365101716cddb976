"""Whether a configuration's text holds a secret itself instead of naming where it is."""

from __future__ import annotations

from codellama_proxy.core.masking import credentials
from codellama_proxy.core.snapshot import Snapshot


def holds_a_secret(text: bytes, snapshot: Snapshot) -> bool:
    """What was substituted is not in the text, so only what was written there is found."""
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    found = [secret for d in (*enabled, *snapshot.disabled) for secret in credentials(d)]
    if snapshot.tracking.promptlayer_key is not None:
        found.append(snapshot.tracking.promptlayer_key.reveal())
    return any(secret.encode() in text for secret in found if secret)
