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
        _leave(f"error: {_said(error)}", 2)


def _expected(error: Exception) -> bool:
    """Whether an error comes from what was given or from the machine, not from a fault of ours."""
    from opponent.core.errors import RunError, Unreadable, out_of_memory

    kinds = (ValueError, LookupError, OSError, ImportError, RunError, Unreadable)
    ours = isinstance(error, kinds) and not isinstance(error, KeyError | IndexError)
    return ours or out_of_memory(error)


def _said(error: Exception) -> str:
    from opponent.core.errors import out_of_memory
    from opponent.core.text import one_line

    if not out_of_memory(error):
        return str(error)
    return (
        f"there is not enough memory ({one_line(error)}). What is done is kept: give the same "
        "command again with more of it, or begin anew with a smaller --batch-size"
    )


def _leave(message: str, code: int) -> None:
    from opponent.core.text import printable

    print(f"opponent: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
