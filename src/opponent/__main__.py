"""The command: `opponent`, or `python -m opponent`."""

import os
import signal
import sys


def main() -> None:
    """Run the command; what a person can mend is said in a line, without a traceback."""
    try:
        from opponent.cli import app

        app(standalone_mode=False)
    except KeyboardInterrupt:
        _leave("stopped; nothing that was written is lost", 128 + signal.SIGINT)
    except Exception as error:
        import click

        if isinstance(error, click.exceptions.Exit):
            sys.exit(error.exit_code)
        if isinstance(error, click.Abort):
            _leave("stopped; nothing that was written is lost", 128 + signal.SIGINT)
        if isinstance(error, click.ClickException):
            error.show()
            sys.exit(error.exit_code)
        if os.environ.get("OPPONENT_TRACEBACK") or not _expected(error):
            raise
        _leave(f"error: {error}", 2)


def _expected(error: Exception) -> bool:
    """Whether an error comes from what was given, not from a fault of ours."""
    from opponent.images import Unreadable
    from opponent.run import RunError

    return isinstance(error, ValueError | OSError | ImportError | RunError | Unreadable)


def _leave(message: str, code: int) -> None:
    print(f"opponent: {message}", file=sys.stderr, flush=True)
    # Decoding threads may still be at work; nothing of theirs is wanted.
    os._exit(code)


if __name__ == "__main__":
    main()
