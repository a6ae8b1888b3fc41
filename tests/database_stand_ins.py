"""Stand-ins for ArangoDB and MongoDB's tools, which no package here has: as strict as the real ones are documented.

`arango(folder)` starts an HTTP server with what of ArangoDB's interface is used, and writes `arangodump` and
`arangorestore` into a folder; `mongo(folder)` writes `mongodump` and `mongorestore`, which work on any server that
speaks MongoDB's protocol. All of them refuse what is not documented: unknown options, a file of options that others may
read, a password among the arguments or the options.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socketserver
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SYSTEM = ("_analyzers", "_apps", "_graphs", "_users")


@dataclass
class Arango:
    """What a server holds.

    Attributes:
        databases: each with `collections`, which are lists of documents, and `views`, which are definitions.
        file: where the tools find it, too.
    """

    file: Path
    user: str
    password: str
    port: int = 0
    databases: dict[str, Any] = field(default_factory=dict)

    def load(self) -> None:
        self.databases = json.loads(self.file.read_text())["databases"]

    def save(self) -> None:
        held = {"user": self.user, "password": self.password, "databases": self.databases}
        self.file.write_text(json.dumps(held, indent=1))

    def create(self, name: str) -> None:
        self.databases[name] = {"collections": {system: [] for system in SYSTEM}, "views": {}}
        self.save()


@contextlib.contextmanager
def arango(folder: Path, user: str, password: str) -> Iterator[Arango]:
    """An HTTP server on a port and on the socket `folder/socket`, and the tools in `folder/bin`."""
    held = Arango(folder / "server.json", user, password)
    held.create("_system")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told = base64.b64encode(f"{user}:{password}".encode()).decode()
            if self.headers["Authorization"] != f"Basic {told}":
                self._send(401, {"error": True, "errorMessage": "not authorized to execute this request"})
                return
            held.load()
            status, answer = _api(held, self.command, self.path, json.loads(body) if body else None)
            held.save()
            self._send(status, answer)

        def _send(self, status: int, answer: Any) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer

    class Local(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    tcp = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local = Local(str(folder / "socket"), Handler)
    held.port = tcp.server_port
    endpoints = [f"tcp://127.0.0.1:{held.port}", f"unix://{folder}/socket"]
    for tool in ("arangodump", "arangorestore"):
        _program(folder, tool, f"run_{tool}", str(held.file), *endpoints)
    running = [threading.Thread(target=server.serve_forever, args=[0.02]) for server in (tcp, local)]
    for thread in running:
        thread.start()
    try:
        yield held
    finally:
        for server in (tcp, local):
            server.shutdown()
            server.server_close()
        for thread in running:
            thread.join()


def _api(held: Arango, method: str, path: str, body: Any) -> tuple[int, Any]:
    _, _, database, *rest = [urllib.parse.unquote(part) for part in path.split("/")]
    if database not in held.databases:
        return 404, {"error": True, "errorMessage": "database not found"}
    here = held.databases[database]
    match method, rest:
        case "GET", ["_api", "version"]:
            return 200, {"server": "arango", "version": "3.12.4"}
        case "GET", ["_api", "collection"]:
            return 200, {"result": [{"name": name, "isSystem": name[0] == "_"} for name in here["collections"]]}
        case "GET", ["_api", "collection", name, "count"] if name in here["collections"]:
            return 200, {"count": len(here["collections"][name])}
        case "DELETE", ["_api", "collection", name] if here["collections"].pop(name, None) is not None:
            return 200, {"error": False}
        case "GET", ["_api", "view"]:
            return 200, {"result": [{"name": name} for name in here["views"]]}
        case "DELETE", ["_api", "view", name] if here["views"].pop(name, None) is not None:
            return 200, {"result": True}
        case "GET", ["_api", "database"] if database == "_system":
            return 200, {"result": sorted(held.databases)}
        case "POST", ["_api", "database"] if database == "_system":
            held.create(body["name"])
            return 201, {"result": True}
        case "DELETE", ["_api", "database", name] if database == "_system" and held.databases.pop(name, None):
            return 200, {"result": True}
    return 404, {"error": True, "errorMessage": f"unknown path {path}"}


# --- the tools, which run in processes of their own ---

_BOTH = {"threads", "overwrite", "progress", "include-system-collections", "collection"}
_SERVER = {f"server.{name}" for name in ("endpoint", "database", "username", "password")}
_DUMP = _BOTH | _SERVER | {"output-directory", "compress-output"}
_RESTORE = _BOTH | _SERVER | {"input-directory", "create-database"}


def run_arangodump(arguments: list[str], file: str, *endpoints: str) -> None:
    if arguments == ["--version"]:
        print("3.12.4 [linux]")
        return
    options, held = _arango_options(arguments, _DUMP, file, endpoints)
    here = held.databases.get(options["server.database"][0]) or sys.exit("FATAL could not connect: database not found")
    output = Path(options["output-directory"][0])
    assert options["compress-output"] == ["false"]
    output.mkdir(exist_ok=True)
    (output / "dump.json").write_text(json.dumps({"database": options["server.database"][0]}))
    for name in options["collection"]:
        assert name in here["collections"], f"Requested collection {name!r} not found in database"
        stem = f"{name}_{name.encode().hex()}"
        structure = {"indexes": [], "parameters": {"name": name, "type": 2}}
        (output / f"{stem}.structure.json").write_text(json.dumps(structure))
        documents = "".join(json.dumps(document) + "\n" for document in here["collections"][name])
        (output / f"{stem}.data.json").write_text(documents)
    for name, view in here["views"].items():
        (output / f"{name}.view.json").write_text(json.dumps({"name": name, **view}))


def run_arangorestore(arguments: list[str], file: str, *endpoints: str) -> None:
    if arguments == ["--version"]:
        print("3.12.4 [linux]")
        return
    options, held = _arango_options(arguments, _RESTORE, file, endpoints)
    database = options["server.database"][0]
    if database not in held.databases:
        assert options["create-database"] == ["true"], "database not found"
        held.create(database)
    here = held.databases[database]
    source = Path(options["input-directory"][0])
    for structure in sorted(source.glob("*.structure.json")):
        name = json.loads(structure.read_text())["parameters"]["name"]
        system = name.startswith("_") and options.get("include-system-collections") != ["true"]
        if system or ("collection" in options and name not in options["collection"]):
            continue
        assert name not in here["collections"] or options["overwrite"] == ["true"], "collection exists"
        data = Path(str(structure).replace(".structure.json", ".data.json")).read_text()
        here["collections"][name] = [json.loads(line) for line in data.splitlines()]
    for view in [] if "collection" in options else source.glob("*.view.json"):
        definition = json.loads(view.read_text())
        here["views"][definition.pop("name")] = definition
    held.save()


def _arango_options(
    arguments: list[str], known: set[str], file: str, endpoints: tuple[str, ...]
) -> tuple[dict[str, list[str]], Arango]:
    """The options as ArangoDB's parser of option files reads them."""
    assert arguments[:1] == ["--configuration"], arguments
    assert len(arguments) == 2, arguments
    text = _private(arguments[1])
    told = json.loads(Path(file).read_text())
    held = Arango(Path(file), told["user"], told["password"], databases=told["databases"])
    assert told["password"] not in text + " ".join(arguments), "the password can be read"
    options: dict[str, list[str]] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if found := re.fullmatch(r"\[([-\w]*)\]", line):
            section = f"{found[1]}."
            continue
        assignment = re.fullmatch(r"((?:[-\w]*\.)?[-\w]*)[ \t]*=[ \t]*(.*?)", line)
        assert assignment, f"unknown line type: {line!r}"
        name = section + assignment[1]
        assert name in known, f"unknown option {name}"
        options.setdefault(name, []).append(_translated(assignment[2]))
    assert options["server.endpoint"][0] in endpoints, "could not connect"
    if (options["server.username"], options["server.password"]) != ([held.user], [held.password]):
        sys.exit("FATAL got unexpected server response: HTTP 401 (Unauthorized)")
    return options, held


def _translated(value: str) -> str:
    return re.sub(r"@(.*?)@", lambda found: os.environ.get(found[1], "") if found[1] else "@", value)


@contextlib.contextmanager
def mongo(folder: Path) -> Iterator[Path]:
    """The folder with the tools."""
    for tool in ("mongodump", "mongorestore"):
        _program(folder, tool, f"run_{tool}")
    yield folder / "bin"


def run_mongodump(arguments: list[str]) -> None:
    import bson

    if arguments == ["--version"]:
        print("mongodump version: 100.10.0")
        return
    options = _mongo_options(arguments, {"config", "archive"})
    assert options["archive"] == [""], "the archive goes to the standard output"
    client, database = _mongo_client(options)
    assert database, "no database in the URI: all of them would be dumped"
    for name in sorted(client[database].list_collection_names()):
        documents = list(client[database][name].find())
        sys.stdout.buffer.write(bson.encode({"ns": f"{database}.{name}", "documents": documents}))
        word = "document" if len(documents) == 1 else "documents"
        print(
            f"2026-01-01T00:00:00.000+0000\tdone dumping {database}.{name} ({len(documents)} {word})", file=sys.stderr
        )


def run_mongorestore(arguments: list[str]) -> None:
    import bson

    if arguments == ["--version"]:
        print("mongorestore version: 100.10.0")
        return
    known = {"config", "archive", "drop", "stopOnError", "nsInclude", "nsFrom", "nsTo"}
    options = _mongo_options(arguments, known)
    client, database = _mongo_client(options)
    assert not database, "a URI with a database restores nothing from another one"
    included = [_pattern(text) for text in options["nsInclude"]]
    ((source,), (target,)) = options["nsFrom"], options["nsTo"]
    assert source[-2:] == target[-2:] == ".*"
    assert options["archive"] == [""]
    for part in bson.decode_file_iter(sys.stdin.buffer):
        if not any(pattern.fullmatch(part["ns"]) for pattern in included):
            continue
        moved = _pattern(source).fullmatch(part["ns"])
        to, name = (target[:-2].replace("\\", ""), moved[1]) if moved else part["ns"].split(".", 1)
        client[to].drop_collection(name)
        client[to].create_collection(name)
        if part["documents"]:
            client[to][name].insert_many(part["documents"])


def _mongo_options(arguments: list[str], known: set[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        assert argument == f"--{name}{argument[2 + len(name) :]}", argument
        assert name in known, f"unknown option {argument}"
        options.setdefault(name, []).append(value)
    return options


def _mongo_client(options: dict[str, list[str]]) -> tuple[Any, str]:
    import pymongo

    (config,) = options["config"]
    found = re.fullmatch(r"uri: (\".*\")\n", _private(config))
    assert found, "the file of options is not understood"
    uri = json.loads(found[1])
    client: Any = pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000)
    return client, pymongo.uri_parser.parse_uri(uri)["database"] or ""


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part.replace("\\", "")) for part in re.split(r"(?<!\\)\*", text)))


def _private(path: str) -> str:
    mode = os.stat(path).st_mode & 0o777
    assert mode == 0o600, f"others may read {path}: {mode:o}"
    return Path(path).read_text()


def _program(folder: Path, name: str, function: str, *arguments: str) -> None:
    """An executable that calls a function of this module."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import {Path(__file__).stem}\n{Path(__file__).stem}.{function}(sys.argv[1:], *{list(arguments)!r})\n"
    )
    path.chmod(0o755)
