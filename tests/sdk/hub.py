"""A Hugging Face hub on loopback: what the real huggingface_hub client asks for, answered from a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one repository, `repo`, from `folder`. `asked` lists the files that were downloaded."""

    def __init__(self, repo: str, folder: Path):
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                self._answer(body=True)

            def _answer(self, body: bool):
                path = self.path.partition("?")[0].strip("/")
                info = (f"api/models/{repo}", f"api/models/{repo}/revision/{COMMIT}", f"api/models/{repo}/revision/main")
                if path in info:
                    files = [{"rfilename": str(file.relative_to(folder))} for file in sorted(folder.rglob("*")) if file.is_file()]
                    return self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode(), body, "application/json")
                if path == f"api/models/{repo}/tree/{COMMIT}":
                    tree = [{"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": hashlib.sha1(f.read_bytes()).hexdigest()}
                            for f in sorted(folder.rglob("*")) if f.is_file()]  # fmt: skip
                    return self._send(json.dumps(tree).encode(), body, "application/json")
                prefix = f"{repo}/resolve/{COMMIT}/"
                file = folder / path.removeprefix(prefix)
                if path.startswith(prefix) and file.is_file():
                    if body:
                        hub.asked.append(file.name)
                    data = file.read_bytes()
                    return self._send(data, body, "application/octet-stream", {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, data: bytes, body: bool, kind: str, headers: dict[str, str] | None = None):
                self.send_response(200)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
