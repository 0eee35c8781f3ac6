"""The command line: one short function per command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``headstart`` command.

    Exit codes: 0 done, 1 an error with a sentence on stderr, 2 wrong usage, 130 interrupted.
    """
    from headstart.cli.commands import app
    from headstart.errors import HeadstartError

    # File names are bytes on Linux; what is not UTF-8 goes out as it came in.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    try:
        app()
    except HeadstartError as error:
        _print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _print_error("Interrupted. Photos that were computed are in the cache; run again to go on.")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(0)


def _print_error(message: str) -> None:
    # Imported only now: --help and usage errors need none of it.
    from headstart.cli.output import print_error

    print_error(message)
