"""The command: `codellama-proxy serve | check | schema`."""


def main() -> int:
    raise SystemExit("not yet")


if __name__ == "__main__":
    main()
