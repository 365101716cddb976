# The first stage downloads and builds; the second contains only the environment, without pip and source tree.
# All downloads are checked by hash; pin the base image as well: --build-arg PYTHON=python@sha256:...
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN ["python", "-m", "venv", "/app/.venv"]
COPY requirements.txt /src/
RUN ["/app/.venv/bin/python", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", "requirements.txt"]
COPY scripts/dev/seed_tokenizer.py /src/scripts/dev/
RUN ["/app/.venv/bin/python", "scripts/dev/seed_tokenizer.py", "/app/.venv/share/tiktoken"]
COPY pyproject.toml README.md LICENSE /src/
COPY codellama_proxy /src/codellama_proxy
COPY migrations /src/migrations
RUN ["/app/.venv/bin/python", "-m", "pip", "install", "--no-deps", "--no-build-isolation", "."]
RUN ["/app/.venv/bin/python", "-m", "pip", "uninstall", "--yes", "hatchling", "editables", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers", "setuptools", "pip"]
# The root file system is read-only at run time, so the bytecode is compiled here.
RUN ["/app/.venv/bin/python", "-m", "compileall", "-q", "-j", "0", "/app/.venv/lib"]
COPY scripts/keys.py scripts/healthy.py /app/scripts/
COPY proxy.yaml proxy.schema.json /config/
RUN ["install", "-d", "-o", "10001", "-g", "10001", "-m", "0700", "/data"]

FROM ${PYTHON}
COPY --from=build /app /app
COPY --from=build /config /config
COPY --from=build --chown=10001:10001 /data /data
ENV PATH=/app/.venv/bin:/app/scripts:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    SQLITE_TMPDIR=/data \
    PROXY_CONFIG=/config/proxy.yaml \
    PROXY_DATABASE=/data/proxy.db \
    PROXY_HOST=0.0.0.0 \
    PROXY_PORT=4000 \
    PROXY_LOG_FORMAT=json
# No VOLUME: a database in an anonymous volume is easily lost. Mount a named volume at /data.
WORKDIR /app
USER 10001:10001
EXPOSE 4000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["python", "/app/scripts/healthy.py"]
# `serve` validates the configuration before it binds the port, and handles SIGTERM as process 1. Open responses
# continue for server.drain (25 s), so stop with `docker stop --time 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["codellama-proxy"]
CMD ["serve"]
