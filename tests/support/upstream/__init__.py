"""A model provider that misbehaves on demand: its own process, real HTTP/1.1, a journal of all it saw."""
