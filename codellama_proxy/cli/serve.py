"""`codellama-proxy serve`: runs the proxy."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from codellama_proxy.cli.options import Command, config_option, database_option
from codellama_proxy.cli.output import note, suggest_init
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.settings import Settings, environment
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.store.factory import last_good_configuration


@click.command(cls=Command)
@config_option
@database_option
@click.option("--host", envvar="PROXY_HOST", show_envvar=True, help="Listen address.  [default: 127.0.0.1]")
@click.option(
    "--port", metavar="PORT", envvar="PROXY_PORT", show_envvar=True, help="Listen port.  [default: 4000]"
)
@click.option(
    "--workers",
    metavar="COUNT",
    envvar="PROXY_WORKERS",
    show_envvar=True,
    help="Processes on the port, with a postgresql:// database.  [default: 1]",
)
@click.option(
    "--on-invalid",
    metavar="[refuse|last-good]",
    envvar="PROXY_ON_INVALID",
    show_envvar=True,
    help="With an invalid file: do not start, or serve the last good configuration.  [default: refuse]",
)
def serve(**options: str | None) -> int:
    """Run the proxy."""
    from codellama_proxy.server.process import log_format  # noqa: PLC0415 - --help needs no server
    from codellama_proxy.server.process import serve as run  # noqa: PLC0415
    from codellama_proxy.server.siblings import supervise  # noqa: PLC0415

    settings = settings_of(**options)
    settings.location  # noqa: B018 - refused before anything else is done
    kept: bytes | None = None
    try:
        kept = _last_good(settings)
        live = LiveConfig(Source(settings.config, environment, IMPLEMENTED), last_good=kept)
        if settings.workers > 1:
            return supervise(
                settings, log_format(settings), [sys.executable, "-m", "codellama_proxy", "serve"]
            )
        return run(settings, live)
    except ConfigError as error:
        code = _refuse(*(str(problem) for problem in error.problems), *_no_last_good(settings, kept))
        suggest_init(settings.config)
        return code
    except OSError as error:
        if error.filename is not None:  # not about the address
            raise
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")


def settings_of(**options: str | None) -> Settings:
    """The environment and `.env`, overridden by the options given. Raises `ValidationError`."""
    return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]  # pydantic reads the strings


def _last_good(settings: Settings) -> bytes | None:
    """Raises `StoreError`."""
    if settings.on_invalid == "refuse":
        return None
    kept = last_good_configuration(settings.location)
    return None if kept is None else kept.text


def _no_last_good(settings: Settings, kept: bytes | None) -> Iterator[str]:
    """Why the last good configuration is not served either, if that was requested."""
    if settings.on_invalid == "last-good":
        what = f"last good configuration in the database {settings.location}"
        yield f"there is no {what}" if kept is None else f"the {what} is no longer valid either"


def _refuse(*lines: str) -> int:
    for line in lines:
        note(line)
    return 1
