"""Origin of code that pods fetch."""

from __future__ import annotations

from .common import Task


class SourceTask(Task, frozen=True):
    """Origin of code that is not in the Job's own ConfigMap: one of three.

    `config_map` is a ConfigMap's name: its files are mounted at SOURCE_DIR, if it exists.
    `uri` is a tar archive's s3:// URI, and `digest` the SHA-256 that it must have, or empty.
    `git_url` is a repository, `git_ref` a branch, tag or commit (or empty: its default branch), `git_path` a folder.
    With `git_secret`, a Secret's name, an init container fetches it to SOURCE_DIR with the Secret's credentials.
    """

    config_map: str = ""
    uri: str = ""
    digest: str = ""
    git_url: str = ""
    git_ref: str = ""
    git_path: str = ""
    git_secret: str = ""
