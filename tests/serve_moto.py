"""moto's S3 server, one request at a time: `python serve_moto.py HOST PORT`.

Where threads take turns within a request, two of them may both find nothing at a key and both create it. S3 is atomic.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

application = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
    with turn:
        return application(environ, start_response)


if __name__ == "__main__":
    run_simple(sys.argv[1], int(sys.argv[2]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
