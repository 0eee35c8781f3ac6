"""``headstart serve``: bundles behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import COVERAGE, PRECISION, CoverageOption, PrecisionOption

_HERE = ("127.0.0.1", "localhost", "::1")


def serve(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles made by: headstart train.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = _HERE[0],
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    queue: Annotated[
        int, typer.Option(min=1, help="Photos that may wait; more are answered with 429.")
    ] = 64,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a request may wait.")
    ] = 30.0,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Of a request.")] = 32.0,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HEADSTART_TOKEN",
            help="Wanted from requests as: Authorization: Bearer TOKEN.",
            show_default=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="A PEM file; with --tls-key.", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="A PEM file.", show_default=False)] = None,
    coverage: CoverageOption = COVERAGE,
    precision: PrecisionOption = PRECISION,
) -> None:
    """Serve bundles over HTTP: a page, TensorFlow Serving's API, and the Open Inference Protocol.

    Needs no TensorFlow. Ctrl-C or SIGTERM finish what is being answered; SIGHUP loads the bundles
    again.
    """
    from headstart.cli import output as out
    from headstart.errors import HeadstartError, require_package

    require_package("fastapi", "uvicorn", "multipart", "prometheus_client", purpose="serving")
    if (tls_certificate is None) != (tls_key is None):
        raise HeadstartError("TLS needs both: --tls-certificate FILE --tls-key FILE.")
    for path in (tls_certificate, tls_key):
        if path is not None and not path.is_file():
            raise HeadstartError(f"The file {path} does not exist.")
    from headstart.server.run import serve as run
    from headstart.server.settings import Settings

    settings = Settings(
        queue=queue,
        deadline_seconds=deadline,
        body_bytes=int(max_mb * 2**20),
        token=token or None,
        coverage=coverage,
        precision=precision,
    )
    scheme = "https" if tls_certificate else "http"
    if host not in _HERE and not token:
        out.stderr().print(
            f"warning: whoever reaches {host} can use this server; --token asks for a password",
            markup=False,
        )

    def tell() -> None:
        out.stderr().print(f"serving on {scheme}://{host}:{port}; Ctrl-C ends it", markup=False)

    tls = {"ssl_certfile": tls_certificate, "ssl_keyfile": tls_key}
    run(bundles, settings, tell, host=host, port=port, **tls)
