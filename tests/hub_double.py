"""A stand-in for the Hugging Face Hub on loopback: accounts, repositories, commits and files, all in memory.

It speaks the part of the Hub's HTTP API that `huggingface_hub`, `transformers` and `datasets` use to create a
repository, upload, list and download: models, data sets and Spaces, revisions, LFS, tokens and private repositories.

    with HubDouble() as hub:
        environment = os.environ | hub.environment(home)  # for a subprocess: the clients read it when imported
        subprocess.run([sys.executable, "publish.py"], env=environment, check=True)
        assert "README.md" in hub.files("org/model")

For code that runs in the process of a test there is the fixture `hub` of conftest.py. `hub.fail["commit"] = 500` lets
every commit fail from then on, `hub.fail["lfs"] = 403` every upload of a large file.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import constants

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}  # name in API paths → prefix in file paths
LFS_SUFFIXES = (".bin", ".jpg", ".onnx", ".onnx.data", ".parquet", ".png", ".pth", ".safetensors")
LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Of one kind and id; the last commit is what `main` stands for, other revisions have a commit each."""

    kind: str
    repo_id: str
    private: bool = False
    details: dict = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    revisions: dict[str, Commit] = field(default_factory=dict)

    def commit(self, title, files):
        text = f"{self.kind} {self.repo_id} {len(self.commits)} {sorted(files)}"
        self.commits.append(Commit(hashlib.sha1(text.encode()).hexdigest(), title, files))
        return self.commits[-1]

    def at(self, revision):
        if revision == "main":
            return self.commits[-1]
        commits = [*self.commits, *self.revisions.values()]
        return self.revisions.get(revision) or next((each for each in commits if each.oid == revision), None)

    def convert_to_parquet(self, files):
        """What the Hub makes of a data set's own files on `refs/convert/parquet`: name → content."""
        oid = hashlib.sha1(f"{self.repo_id} {sorted(files)}".encode()).hexdigest()
        self.revisions["refs/convert/parquet"] = Commit(oid, "Update parquet files", files)


class Refusal(Exception):  # noqa: N818  an answer rather than an error
    def __init__(self, status, message, code=None, **body):
        self.status, self.message, self.code, self.body = status, message, code, body


class HubDouble:
    """A Hub at `url` from `start()` (or `with`) to `stop()`."""

    def __init__(self):
        self.users = {}  # token → name, organisations, role
        self.repositories = {}  # (kind, id) → Repository
        self.large_files = {}  # SHA-256 → content
        self.fail = {}  # "commit", "lfs" or "create" → status to answer
        self.requests = []  # "METHOD /path" of each, in order
        self.lock = threading.Lock()
        self.add_user("hf_writer", "someone", organizations=("org",))
        self.add_user("hf_reader", "someone", organizations=("org",), role="read")

    def add_user(self, token, name, organizations=(), role="write"):
        self.users[token] = {"name": name, "organizations": tuple(organizations), "role": role}

    def start(self):
        handler = type("Handler", (HubRequestHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    __enter__ = start

    def __exit__(self, *error):
        self.stop()

    def environment(self, home, token="hf_writer"):
        """Variables that point the clients of a new process at this Hub, with a cache of their own in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": f"{home}/hub",
            "HF_MODULES_CACHE": f"{home}/modules",
            "HF_DATASETS_CACHE": f"{home}/datasets",
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def adopt_clients(self, monkeypatch, home):
        """Points the clients of this process at this Hub, as `environment` does those of a new one."""
        for name, value in self.environment(home).items():
            monkeypatch.setenv(name, value)
        # What the client has read from these variables when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{home}/hub")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{home}/token")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def repository(self, repo_id, kind="models"):
        return self.repositories.get((kind, repo_id))

    def files(self, repo_id, kind="models"):
        """Name → content of the newest revision's files, without the `.gitattributes` of every repository."""
        files = self.repository(repo_id, kind).commits[-1].files
        return {name: content for name, content in files.items() if name != ".gitattributes"}

    def create(self, repo_id, kind="models", private=False, files=None, **details):
        """A repository, with a second commit of `files` where there are any."""
        repository = self.repositories[kind, repo_id] = Repository(kind, repo_id, private, details)
        first = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        repository.commit("initial commit", first)
        if files:
            repository.commit("files", {**first, **files})
        return repository


class HubRequestHandler(BaseHTTPRequestHandler):
    """Answers one request; the methods named by `ROUTES` return what is sent as JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or else an answer of headers and content waits 40 ms for an acknowledgement
    hub: HubDouble

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self):
        self.body = self._read_body()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for route_method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and route_method == method:
                    with self.hub.lock:
                        content = answer(self, **found.groupdict())
                    break
            else:
                raise Refusal(404, f"this stand-in has no answer to {method} {path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._send(refusal.status, json.dumps({"error": refusal.message, **refusal.body}).encode(), headers)
            return
        if content is not None:  # else the route has sent it
            self._send(200, json.dumps(content).encode(), {})

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # Who asks, and what for

    def _user(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _may_write(self, namespace):
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user["role"] == "read":
            raise Refusal(403, "You must use write token to upload to a repository.")
        if namespace not in (user["name"], *user["organizations"]):
            raise Refusal(403, f"You don't have the rights to write under the namespace {namespace}")

    def _repository(self, kind, repo_id, write=False):
        repository = self.hub.repository(repo_id, kind)
        namespace = repo_id.split("/")[0]
        user = self._user()
        is_member = user is not None and namespace in (user["name"], *user["organizations"])
        if repository is None or (repository.private and not is_member):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self._may_write(namespace)
        return repository

    def _commit(self, kind, repo_id, revision):
        commit = self._repository(kind, repo_id).at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Accounts and repositories

    def whoami(self):
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        organizations = [{"type": "org", "name": name} for name in user["organizations"]]
        token = {"displayName": "token", "role": user["role"]}
        return {"type": "user", "name": user["name"], "orgs": organizations, "auth": {"accessToken": token}}

    def create_repository(self):
        request = json.loads(self.body)
        namespace = request.get("organization") or self._user()["name"]
        repo_id, kind = f"{namespace}/{request['name']}", f"{request.get('type') or 'model'}s"
        self._may_write(namespace)
        self._fail("create")
        url = f"{self.hub.url}/{KINDS[kind]}{repo_id}"
        if self.hub.repository(repo_id, kind):
            raise Refusal(409, "You already created this model repo", url=url)
        details = {"sdk": request["sdk"]} if "sdk" in request else {}
        self.hub.create(repo_id, kind, private=request.get("visibility") == "private", **details)
        return {"url": url, "name": repo_id, "id": "0"}

    def delete_repository(self):
        request = json.loads(self.body)
        kind, repo_id = f"{request.get('type') or 'model'}s", f"{request['organization']}/{request['name']}"
        self._repository(kind, repo_id, write=True)
        del self.hub.repositories[kind, repo_id]
        return {}

    def validate_card(self):
        content = json.loads(self.body)["content"]
        header = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
        metadata = yaml.safe_load(header[1]) if header else {}
        if metadata.get("license") not in (None, *LICENSES):
            message = f'"license" must be one of {list(LICENSES)}'
            raise Refusal(400, message, errors=[{"message": message}], warnings=[])
        return {"errors": [], "warnings": []}

    def information(self, kind, repo_id, revision="main"):
        repository, commit = self._repository(kind, repo_id), self._commit(kind, repo_id, revision or "main")
        siblings = [{"rfilename": name, "size": len(content)} for name, content in sorted(commit.files.items())]
        return {
            "_id": "0", "id": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid, "lastModified": DATE,
            "createdAt": DATE, "private": repository.private, "gated": False, "disabled": False, "downloads": 0,
            "likes": 0, "tags": [], "siblings": siblings, **repository.details,
        }  # fmt: skip

    def references(self, kind, repo_id):
        commit = self._commit(kind, repo_id, "main")
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit.oid}
        return {"branches": [branch], "tags": [], "converts": []}

    def history(self, kind, repo_id, revision):
        self._commit(kind, repo_id, revision)
        commits = reversed(self._repository(kind, repo_id).commits)
        return [
            {"id": commit.oid, "title": commit.title, "message": "", "date": DATE, "authors": [{"user": "someone"}]}
            for commit in commits
        ]

    # Files

    def tree(self, kind, repo_id, revision, folder=None):
        files = self._commit(kind, repo_id, revision).files
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for path in sorted(files):
            if path.startswith(prefix):
                parts = path[len(prefix) :].split("/")
                for depth in range(1, len(parts)):
                    inner = prefix + "/".join(parts[:depth])
                    entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
                entries[path] = self._entry(path, files[path])
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        if "recursive=true" not in self.path.lower():
            entries = {path: entry for path, entry in entries.items() if "/" not in path[len(prefix) :]}
        return list(entries.values())

    def paths_information(self, kind, repo_id, revision):
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = re.findall(r"paths=([^&]*)", unquote(self.body.decode()))
        files = self._commit(kind, repo_id, revision).files
        return [self._entry(path, files[path]) for path in paths if path in files]

    def _entry(self, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if is_large(path):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def file(self, prefix, repo_id, revision, path):
        kind = next(kind for kind, known in KINDS.items() if known == prefix)
        commit = self._commit(kind, repo_id, revision)
        content = commit.files.get(path)
        if content is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest() if is_large(path) else git_oid(content)
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{etag}"',
            "Accept-Ranges": "bytes",
        }
        status = 200
        if is_large(path):
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self._send(status, content, headers)

    # Uploads

    def _fail(self, what):
        if what in self.hub.fail:
            raise Refusal(self.hub.fail[what], "told to fail")

    def upload_modes(self, kind, repo_id, revision):
        files = self._repository(kind, repo_id, write=True).commits[-1].files
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, content = asked["path"], files.get(asked["path"])
            mode, oid = "lfs" if is_large(path) else "regular", None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if is_large(path) else git_oid(content)
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def large_file_actions(self, prefix, repo_id):
        kind = next(kind for kind, known in KINDS.items() if known == prefix)
        self._repository(kind, repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        for answer in objects:
            if answer["oid"] not in self.hub.large_files:
                address = f"{self.hub.url}/large-files/{answer['oid']}"
                answer["actions"] = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
        return {"transfer": "basic", "objects": objects}

    def receive_large_file(self, oid):
        self._fail("lfs")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "content and digest disagree")
        self.hub.large_files[oid] = self.body
        return {}

    def verify_large_file(self, oid):
        if len(self.hub.large_files[oid]) != json.loads(self.body)["size"]:
            raise Refusal(400, "wrong size")
        return {}

    def receive_commit(self, kind, repo_id, revision):
        repository = self._repository(kind, repo_id, write=True)
        self._fail("commit")
        files, title = dict(repository.commits[-1].files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repository.commits[-1].oid) != repository.commits[-1].oid:
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise Refusal(400, f"the content of {value['path']} was not uploaded")
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: content for path, content in files.items() if not path.startswith(folder)}
            else:
                raise Refusal(400, f"unknown operation {key}")
        commit = repository.commit(title, files)
        url = f"{self.hub.url}/{KINDS[kind]}{repo_id}/commit/{commit.oid}"
        return {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""}


def is_large(path):
    return path.endswith(LFS_SUFFIXES)


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_FILES = r"/(?P<prefix>datasets/|spaces/|)(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>refs/convert/parquet|[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", HubRequestHandler.whoami),
    ("POST", r"/api/repos/create", HubRequestHandler.create_repository),
    ("DELETE", r"/api/repos/delete", HubRequestHandler.delete_repository),
    ("POST", r"/api/validate-yaml", HubRequestHandler.validate_card),
    ("GET", _REPOSITORY + rf"(/revision{_REVISION})?", HubRequestHandler.information),
    ("GET", _REPOSITORY + r"/refs", HubRequestHandler.references),
    ("GET", _REPOSITORY + r"/commits" + _REVISION, HubRequestHandler.history),
    ("GET", _REPOSITORY + r"/tree" + _REVISION + r"(/(?P<folder>.+))?", HubRequestHandler.tree),
    ("POST", _REPOSITORY + r"/paths-info" + _REVISION, HubRequestHandler.paths_information),
    ("POST", _REPOSITORY + r"/preupload" + _REVISION, HubRequestHandler.upload_modes),
    ("POST", _REPOSITORY + r"/commit" + _REVISION, HubRequestHandler.receive_commit),
    ("POST", _FILES + r"\.git/info/lfs/objects/batch", HubRequestHandler.large_file_actions),
    ("PUT", r"/large-files/(?P<oid>\w+)", HubRequestHandler.receive_large_file),
    ("POST", r"/large-files/(?P<oid>\w+)/verify", HubRequestHandler.verify_large_file),
    ("GET", _FILES + r"/resolve" + _REVISION + r"/(?P<path>.+)", HubRequestHandler.file),
]
