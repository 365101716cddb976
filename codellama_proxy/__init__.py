"""The LLM gateway a team puts in front of its coding models: one process, one proxy.yaml, one SQLite file."""

__version__ = "0.1.0"
