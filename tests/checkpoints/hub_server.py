"""A local server of the routes of the Hugging Face Hub that downloads use."""

import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """Repositories by name: file -> content, or an error (status, ``X-Error-Code``).

    Attributes:
        branches: revisions that exist besides the commit.
        large: suffixes of files in LFS, which are redirected and named by their sha256.
        corrupt: files whose content is not what their sha256 declares.
        asked: paths of all requests, with their methods.
        address: of the Hub; store: of the files in LFS, on another host as the Hub's.
    """

    repositories: dict[str, dict[str, bytes] | tuple[int, str]] = field(default_factory=dict)
    branches: tuple[str, ...] = ("main", "v1", "refs/pr/1")
    large: tuple[str, ...] = (".safetensors", ".bin", ".pth")
    corrupt: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    address: str = ""
    store: str = ""

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        if path.startswith("/cdn/"):
            _, _, name, file = unquote(path).split("|")
            return self.send(request, 200, self.repositories[name][file])
        api, resolve = API.fullmatch(path), FILE.fullmatch(path)
        if not api and not resolve:
            return self.send(request, 404)
        name, revision = (api or resolve).groups()[:2]
        revision = revision and unquote(revision)
        files = self.repositories.get(name, (401, "RepoNotFound"))
        if isinstance(files, tuple):
            return self.send(request, files[0], code=files[1])
        if revision not in (None, COMMIT, *self.branches):
            return self.send(request, 404, code="RevisionNotFound")
        if api:
            siblings = [{"rfilename": file} for file in files]
            info = {"_id": "1", "id": name, "sha": COMMIT, "siblings": siblings}
            return self.send(request, 200, json.dumps(info).encode(), kind="application/json")
        file = unquote(resolve[3])
        if file not in files:
            return self.send(request, 404, code="EntryNotFound")
        content, headers = files[file], {"X-Repo-Commit": COMMIT}
        if file.endswith(self.large):
            declared = content + b"?" if file in self.corrupt else content
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(declared).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
            headers["Location"] = f"{self.store}/cdn/|{COMMIT}|{name}|{file}"
            return self.send(request, 302, headers=headers)
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(request, 200, content, headers=headers)

    def send(self, request, status, content=b"", code="", headers=None, kind="text/plain"):
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
            request.send_header("X-Error-Message", code)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


def start_hub() -> tuple[Hub, http.server.ThreadingHTTPServer]:
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hub.answer(self)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    hub.store = f"http://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server
