"""One commit of a git repository, by http, https or ssh."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dulwich.client import GitClient, HTTPUnauthorized, SSHGitClient, get_transport_and_path
from dulwich.config import ConfigFile
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.index import build_index_from_tree
from dulwich.objects import Commit, ObjectID, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo
from ultramarine_contract.errors import listed
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.transport import cause, proxy_of
from urllib3.exceptions import HTTPError

from ultramarine_trainer.data.credentials import CA, FIELD, Credentials, SourceError

GIT_SECONDS = 30.0  # without a word from the repository's server
AGAIN = ", and apply it again under another name"  # what cannot be edited
HUNG_UP = str(HangupException())  # with nothing said before


def check_out(task: SourceTask, work: Path, credentials: Credentials | None = None) -> str:
    """Fetch one commit, write its files to `work`, and return its id. Raises SourceError."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _explaining(task, credentials), Repo.init(folder) as repository:
        client, path = _client(task, credentials)
        ids: list[ObjectID] = []

        def choose(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
            ids[:] = [_commit_of(task, refs)]
            return ids

        client.fetch(path, repository, determine_wants=choose, depth=1)
        target = repository[ids[0]]
        while isinstance(target, Tag):
            target = repository[target.object[1]]
        if not isinstance(target, Commit):
            raise SourceError("GitRefNotFound", f"{task.git_ref} of {task.git_url} is not a commit")
        tree = repository[target.tree]
        for part in filter(None, task.git_path.split("/")):
            try:
                tree = repository[tree[part.encode()][1]] if isinstance(tree, Tree) else tree
            except KeyError as error:
                message = f"spec.source.git.path {task.git_path} is not in {task.git_url} at {target.id.decode()}"
                raise SourceError("GitPathNotFound", message) from error
        if not isinstance(tree, Tree):
            raise SourceError("GitPathNotFound", f"spec.source.git.path {task.git_path} is a file; name its folder")
        build_index_from_tree(str(work), f"{folder}/index", repository.object_store, tree.id)
        return target.id.decode()


def _client(task: SourceTask, credentials: Credentials | None) -> tuple[GitClient, str]:
    """Return a client that presents the credentials, and the repository's path on its server."""
    config = ConfigFile()
    # dulwich reads the variables of a proxy in small letters alone.
    if proxy := proxy_of(task.git_url):
        config.set((b"http",), b"proxy", proxy.encode())
    if credentials is None:
        return get_transport_and_path(task.git_url, config=config)
    credentials.check()
    if not task.git_url.startswith("http"):
        # Half a second and 20 MB of memory, for ssh alone.
        from ultramarine_trainer.data.ssh import Ssh

        client, path = get_transport_and_path(task.git_url)
        assert isinstance(client, SSHGitClient)
        client.ssh_vendor = Ssh(credentials, GIT_SECONDS)
        return client, path
    user, password = credentials.http()
    if credentials.get(CA):
        config.set((b"http",), b"sslCAInfo", str(credentials.folder / CA).encode())
    return get_transport_and_path(task.git_url, config=config, username=user, password=password)


def _commit_of(task: SourceTask, refs: Mapping[Ref, ObjectID]) -> ObjectID:
    """Return the commit id that the branch, the tag or the commit id stands for."""
    ref = task.git_ref.encode()
    for name in (b"refs/heads/" + ref, b"refs/tags/" + ref, ref) if ref else (b"HEAD",):
        if Ref(name) in refs:
            return refs[Ref(name)]
    if _is_commit_id(task.git_ref):
        return ObjectID(ref)  # many servers give any commit that one of their branches leads to
    branches = sorted(name.decode().rpartition("/")[2] for name in refs if name.startswith(b"refs/heads/"))
    there = listed(branches) or "none"
    message = f"{task.git_url} has no branch, tag or commit {task.git_ref or 'HEAD'!r}; its branches are: {there}"
    raise SourceError("GitRefNotFound", f"{message}; correct spec.source.git.ref{AGAIN}")


def _is_commit_id(ref: str) -> bool:
    return len(ref) == 40 and not ref.strip("0123456789abcdef")


@contextmanager
def _explaining(task: SourceTask, credentials: Credentials | None) -> Iterator[None]:
    """Turn what a fetch may raise into a SourceError that says what to check."""
    url, secret = task.git_url, credentials.secret if credentials else ""
    socket.setdefaulttimeout(GIT_SECONDS)
    try:
        yield
    except HTTPUnauthorized as error:
        raise _unauthorized(url, secret) from error
    except NotGitRepository as error:
        hidden = f", or the credentials in Secret {secret} may not read it" if secret else ""
        message = f"there is no git repository at {url}{hidden}; check spec.source.git.url"
        raise SourceError("SourceNotFound", message) from error
    except (HTTPError, OSError, GitProtocolError) as error:
        raise _explained(task, secret, error) from error
    finally:
        socket.setdefaulttimeout(None)


def _explained(task: SourceTask, secret: str, error: Exception) -> SourceError:
    url, root = task.git_url, cause(error)
    if isinstance(error, GitProtocolError) and isinstance(error.__cause__, HangupException) and str(error) != HUNG_UP:
        # What an ssh server says instead of git's protocol: that there is no such repository, as a rule.
        remedy = "check spec.source.git.url, and what the key may read"
        return SourceError("SourceNotFound", f"{url} cannot be read ({str(error)[:500]}); {remedy}")
    if "certificate verify failed" in root:
        place = f"Secret {secret}" if secret else f"a Secret, and name it in {FIELD}"
        message = f"the TLS certificate of {url} is not trusted ({root}); put its CA as {CA} into {place}"
        return SourceError("GitCertificateUnknown", message)
    if root.startswith("unexpected http resp 403"):
        return _unauthorized(url, secret)
    answered = isinstance(error, GitProtocolError) and not isinstance(error.__cause__, HTTPError)
    if answered and _is_commit_id(task.git_ref):
        message = f"{url} does not give commit {task.git_ref} ({root}); name a branch or a tag"
        return SourceError("GitRefNotFound", message)
    return _unreachable(url, root)


def _unauthorized(url: str, secret: str) -> SourceError:
    if not secret:
        remedy = f"check spec.source.git.url, or set {FIELD} to a Secret with a password or token"
        return SourceError("SourceNotFound", f"there is no git repository at {url} that is open to all; {remedy}")
    remedy = "check username and password or token in it, that they have not expired, and may read the repository"
    return SourceError("GitCredentialsRefused", f"{url} refused the credentials in Secret {secret}; {remedy}")


def _unreachable(url: str, root: str) -> SourceError:
    remedy = "check the address, and that the namespace's network policies let training pods reach it"
    return SourceError("SourceUnreachable", f"{url} does not answer ({root}); {remedy}", transient=True)
