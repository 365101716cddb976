"""Where this proxy runs: the environment, with `.env` behind it. Everything else is in proxy.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from codellama_proxy.store.location import DEFAULT_DATABASE, Location, database_location

MIN_MASTER_KEY_CHARACTERS = 16
DEFAULT_HOST = "127.0.0.1"


class Settings(BaseSettings):
    """`PROXY_CONFIG`, `PROXY_DATABASE` and so on; empty is unset. Arguments win over both."""

    model_config = SettingsConfigDict(
        env_prefix="PROXY_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: Path = Field(default=Path("proxy.yaml"), description="The configuration file.")
    database: str = Field(
        default=DEFAULT_DATABASE,
        repr=False,  # an address may contain a password
        description="The database: a path, or a postgresql:// address.",
    )
    database_password_file: Path | None = Field(
        default=None, description="A file with the password of the database server."
    )
    host: str = Field(default=DEFAULT_HOST, description="The address to listen on.")
    port: int = Field(default=4000, ge=0, le=65535, description="The port; 0 for any free one.")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Serving processes on the port; more than 1 need a database server.",
    )
    master_key: SecretStr | None = Field(default=None, description="Opens the admin endpoints.")
    on_invalid: Literal["refuse", "last-good"] = Field(
        default="refuse", description="A start with a bad file: refuse, or serve the last good one."
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="The least severe line to log."
    )
    log_format: Literal["json", "text"] | None = Field(
        default=None, description="Default: text on a terminal, json elsewhere."
    )

    @property
    def location(self) -> Location:
        """The database. Raises `StoreError` for an address of another system."""
        return database_location(self.database, self.database_password_file)

    @field_validator("log_level", "log_format", "on_invalid", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("port", "workers", mode="before")
    @classmethod
    def _plain_digits(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value.strip()):
            raise ValueError("must be a whole number")
        return value

    @field_validator("master_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if len(value.get_secret_value()) < MIN_MASTER_KEY_CHARACTERS:
            raise ValueError(f"must have at least {MIN_MASTER_KEY_CHARACTERS} characters")
        return value


def config_path(given: str | None) -> Path:
    """The file a command is about: the argument, else `PROXY_CONFIG`. Raises `ValidationError`."""
    return Path(given) if given else Settings().config


def environment(dotenv: Path = Path(".env"), environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What `${NAME}` sees: `.env`, overlaid by the process's own variables unless those are empty."""
    written = _read(dotenv.read_text("utf-8")) if dotenv.is_file() else {}
    return {**written, **{name: value for name, value in environ.items() if value}}


@lru_cache(maxsize=1)
def _read(content: str) -> Mapping[str, str]:
    """Once for each content: it is looked at every second, and complains of bad lines each time it is read."""
    return {name: value for name, value in dotenv_values(stream=StringIO(content)).items() if value}
