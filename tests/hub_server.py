"""A small server that speaks the Hub's protocol over HTTP, for tests: repositories on disk, tokens, injected faults.

Revisions are snapshots of a repository's files; a branch or tag names one. Large files come by the LFS batch
protocol (`HF_HUB_DISABLE_XET=1`), small ones inside the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

USERS = {"hf_alice": "alice", "hf_bob": "bob"}


def is_large(path: str) -> bool:
    """The Hub keeps weights and images apart by LFS and text inside the repository."""
    return path.endswith((".safetensors", ".png"))


@dataclass
class Repo:
    private: bool
    sdk: str | None = None
    """Of a Space."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        digest = hashlib.sha1(json.dumps(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())).encode())
        digest.update(f"{len(self.commits)} {message}".encode())
        oid = digest.hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        self.messages.append(message)
        return oid


class HubServer:
    """Runs in a thread until `stop`. Set `faults` to make it misbehave: see the handlers."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: set[str] = set()
        self.requests: list[str] = []
        self.change: Callable[[bytes], bytes] | None = None
        """Given the body of every answer to a GET, returns what is sent instead."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        routes = [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/validate-yaml", self.validate_card, methods=["POST"]),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/repos/delete", self.delete, methods=["DELETE"]),
            *self._of_a_kind("/api/models", ""),
            *self._of_a_kind("/api/spaces", "/spaces"),
            Route("/lfs/{oid}", self.lfs_put, methods=["PUT"]),
            Route("/lfs-verify", self.lfs_verify, methods=["POST"]),
        ]
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._damaging(Starlette(routes=routes)), host="127.0.0.1", port=self.port, log_level="error", ws="none"
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def _of_a_kind(self, api: str, page: str) -> list[Route]:
        """Routes of models or Spaces: those of the API, and those of files."""
        return [
            Route(f"{api}/{{owner}}/{{name}}/preupload/{{rev:path}}", self.preupload, methods=["POST"]),
            Route(f"{api}/{{owner}}/{{name}}/commit/{{rev:path}}", self.commit, methods=["POST"]),
            Route(f"{api}/{{owner}}/{{name}}/tree/{{rev}}", self.tree),
            Route(f"{api}/{{owner}}/{{name}}/paths-info/{{rev}}", self.paths_info, methods=["POST"]),
            Route(f"{api}/{{owner}}/{{name}}/refs", self.refs),
            Route(f"{api}/{{owner}}/{{name}}/branch/{{rev:path}}", self.branch, methods=["POST"]),
            Route(f"{api}/{{owner}}/{{name}}/tag/{{rev:path}}", self.tag, methods=["POST"]),
            Route(f"{api}/{{owner}}/{{name}}/revision/{{rev}}", self.info),
            Route(f"{api}/{{owner}}/{{name}}", self.info),
            Route(f"{page}/{{owner}}/{{name}}.git/info/lfs/objects/batch", self.lfs_batch, methods=["POST"]),
            Route(f"{page}/{{owner}}/{{name}}/resolve/{{rev}}/{{path:path}}", self.resolve, methods=["GET", "HEAD"]),
        ]

    def _damaging(self, app: Starlette) -> Any:
        """`app`, its answers to GET as `change` makes them; headers stay, the length apart."""

        async def changed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "GET" or self.change is None:
                return await app(scope, receive, send)
            head: dict[str, Any] = {}

            async def hold(message: Any) -> None:
                if message["type"] == "http.response.start":
                    head.update(message)
                    return
                body = self.change(message.get("body", b"")) if self.change else message.get("body", b"")
                kept = [(key, value) for key, value in head["headers"] if key != b"content-length"]
                head["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
                await send(head)
                await send({**message, "body": body})

            return await app(scope, receive, hold)

        return changed

    def start(self) -> HubServer:
        import time

        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    # -- helpers

    def _user(self, request: Request) -> str | None:
        self.requests.append(f"{request.method} {request.url.path}")
        return USERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    def _repo(self, request: Request, *, write: bool = False) -> Repo | Response:
        user = self._user(request)
        repo_id = _id(request)
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != request.path_params["owner"]):
            # Like the Hub: a private repository is not told apart from none at all.
            return _error(401 if user is None else 404, "RepoNotFound", "Repository Not Found")
        if write and user != request.path_params["owner"]:
            return _error(403, "", "You have no write access")
        return repo

    def _entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if is_large(path):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    # -- handlers

    async def whoami(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            return _error(401, "", "Invalid credentials")
        return JSONResponse({"type": "user", "name": user, "auth": {"accessToken": {"role": "write"}}})

    async def validate_card(self, request: Request) -> Response:
        self._user(request)
        return JSONResponse({"errors": [], "warnings": []})

    async def create(self, request: Request) -> Response:
        user, body = self._user(request), await request.json()
        if user is None:
            return _error(401, "", "Invalid credentials")
        owner = body.get("organization") or user
        space = body.get("type") == "space"
        repo_id = f"{'spaces/' if space else ''}{owner}/{body['name']}"
        if owner != user:
            return _error(403, "", "You cannot create a repository there")
        if repo_id in self.repos:
            return JSONResponse({"url": f"{self.url}/{repo_id}", "error": "exists"}, status_code=409)
        private = bool(body.get("private") or body.get("visibility") == "private")
        self.repos[repo_id] = Repo(private=private, sdk=body.get("sdk"))
        self.repos[repo_id].commit({".gitattributes": b""}, "initial commit")
        return JSONResponse({"url": f"{self.url}/{repo_id}", "name": repo_id})

    async def delete(self, request: Request) -> Response:
        user, body = self._user(request), await request.json()
        self.repos.pop(f"{user}/{body['name']}", None)
        return JSONResponse({})

    async def preupload(self, request: Request) -> Response:
        repo = self._repo(request, write=True)
        if isinstance(repo, Response):
            return repo
        files = (await request.json())["files"]
        answer = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if is_large(f["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for f in files
        ]
        return JSONResponse({"files": answer})

    async def lfs_batch(self, request: Request) -> Response:
        repo = self._repo(request, write=True)
        if isinstance(repo, Response):
            return repo
        objects = []
        for wanted in (await request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                entry["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{wanted['oid']}"},
                    "verify": {"href": f"{self.url}/lfs-verify"},
                }
            objects.append(entry)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request: Request) -> Response:
        self._user(request)
        if "drop_upload" in self.faults:
            return Response(status_code=400)
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            return Response(status_code=400)
        self.objects[request.path_params["oid"]] = content
        return Response()

    async def lfs_verify(self, request: Request) -> Response:
        wanted = await request.json()
        return Response(status_code=200 if wanted["oid"] in self.objects else 404)

    async def commit(self, request: Request) -> Response:
        repo = self._repo(request, write=True)
        if isinstance(repo, Response):
            return repo
        if "refuse_commit" in self.faults:
            return _error(400, "", "commit refused")
        branch = request.path_params["rev"]
        files, message = dict(repo.commits[repo.refs[branch]]), ""
        pull_request = request.query_params.get("create_pr") == "1"
        if pull_request:
            branch = "refs/pr/1"
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repo.commit(files, message, branch)
        repo_id = _id(request)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo_id}/commit/{oid}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.url}/{repo_id}/discussions/1"
        return JSONResponse(answer)

    def _files(self, request: Request) -> tuple[str, dict[str, bytes]] | Response:
        repo = self._repo(request)
        if isinstance(repo, Response):
            return repo
        oid = repo.resolve(request.path_params.get("rev", "main"))
        if oid is None:
            return _error(404, "RevisionNotFound", "Revision Not Found")
        return oid, repo.commits[oid]

    async def info(self, request: Request) -> Response:
        found = self._files(request)
        if isinstance(found, Response):
            return found
        repo_id = _id(request)
        siblings = [{"rfilename": path} for path in found[1]]
        return JSONResponse(
            {
                "id": repo_id,
                "modelId": repo_id,
                "sha": found[0],
                "private": self.repos[repo_id].private,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "sdk": self.repos[repo_id].sdk,
            }
        )

    async def tree(self, request: Request) -> Response:
        found = self._files(request)
        if isinstance(found, Response):
            return found
        return JSONResponse([self._entry(path, content) for path, content in found[1].items()])

    async def paths_info(self, request: Request) -> Response:
        found = self._files(request)
        if isinstance(found, Response):
            return found
        wanted = parse_qs((await request.body()).decode())["paths"]
        return JSONResponse([self._entry(path, found[1][path]) for path in wanted if path in found[1]])

    async def refs(self, request: Request) -> Response:
        repo = self._repo(request)
        if isinstance(repo, Response):
            return repo
        return JSONResponse(
            {
                "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()],
                "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()],
                "converts": [],
            }
        )

    async def branch(self, request: Request) -> Response:
        repo = self._repo(request, write=True)
        if isinstance(repo, Response):
            return repo
        name = request.path_params["rev"]
        if name in repo.refs:
            return _error(409, "", "Branch exists")
        repo.refs[name] = repo.refs["main"]
        return JSONResponse({})

    async def tag(self, request: Request) -> Response:
        repo = self._repo(request, write=True)
        if isinstance(repo, Response):
            return repo
        name = (await request.json())["tag"]
        if name in repo.tags:
            return _error(409, "", "Tag exists")
        repo.tags[name] = repo.resolve(request.path_params["rev"]) or repo.refs["main"]
        return JSONResponse({})

    async def resolve(self, request: Request) -> Response:
        found = self._files(request)
        if isinstance(found, Response):
            return found
        oid, files = found
        path = request.path_params["path"]
        if path not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        content = files[path]
        lfs = is_large(path)
        etag = (hashlib.sha256 if lfs else hashlib.sha1)(content).hexdigest()
        headers = {"X-Repo-Commit": oid, "ETag": f'"{etag}"', "Content-Length": str(len(content))}
        if lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if request.method == "HEAD":
            return Response(headers=headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if wanted:
            part = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.requests[-1] += f" {len(part)} bytes"
            headers["Content-Length"] = str(len(part))
            return Response(part, 206, headers=headers, media_type="application/octet-stream")
        if "corrupt_download" in self.faults and lfs:
            content = content[:-8] + b"\0" * 8
        return Response(content, headers=headers, media_type="application/octet-stream")


def _id(request: Request) -> str:
    """`owner/name` of a model, `spaces/owner/name` of a Space."""
    space = request.url.path.startswith(("/api/spaces/", "/spaces/"))
    return f"{'spaces/' if space else ''}{request.path_params['owner']}/{request.path_params['name']}"


def _error(status: int, code: str, message: str) -> Response:
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return JSONResponse({"error": message}, status_code=status, headers=headers)
