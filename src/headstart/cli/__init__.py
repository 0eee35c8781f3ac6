"""The command line: one short function per command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the ``headstart`` command.

    Exit codes: 0 done, 1 an error with a sentence on stderr, 2 wrong usage, 130 interrupted.
    """
    from headstart.cli.commands import app
    from headstart.errors import HeadstartError

    # TensorFlow's hints are for its own developers. Before it is imported, whichever command does.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # File names are bytes on Linux; what is not UTF-8 goes out as it came in.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    try:
        app()
    except (HeadstartError, OSError) as error:
        # Imported only now: --help needs none of it.
        from headstart.cli.output import print_error

        print_error(str(error))
        sys.exit(1)
