"""The command: `opponent`, or `python -m opponent`."""

import os
import signal
import sys

STOPPED = 128 + signal.SIGINT


def main() -> None:
    """Run the command; what a person can mend is said in a line, without a traceback."""
    try:
        from opponent.cli import app

        app()
    except KeyboardInterrupt:
        _leave("stopped", STOPPED)
    except SystemExit as end:
        if end.code != STOPPED:
            raise
        _leave("stopped; what is done is kept: give the same command again to go on", STOPPED)
    except Exception as error:
        if os.environ.get("OPPONENT_TRACEBACK") or not _expected(error):
            raise
        _leave(f"error: {error}", 2)


def _expected(error: Exception) -> bool:
    """Whether an error comes from what was given, not from a fault of ours."""
    from opponent.core.errors import RunError, Unreadable

    kinds = (ValueError, LookupError, OSError, ImportError, RunError, Unreadable)
    return isinstance(error, kinds) and not isinstance(error, KeyError | IndexError)


def _leave(message: str, code: int) -> None:
    from opponent.core.text import printable

    print(f"opponent: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
