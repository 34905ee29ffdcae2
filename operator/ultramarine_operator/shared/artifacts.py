"""Files of a version in the object storage: whether the operator may read them, and whether they have its digest."""

from __future__ import annotations

from dataclasses import dataclass

from ultramarine_contract.errors import StorageError

from .conditions import Condition
from .plan import Platform
from .questions import MAX_HASHED, ArtifactFacts, CheckArtifact

FOUND = Condition("Ready", True, "ArtifactFound", "")


@dataclass(frozen=True)
class Artifact:
    """Folder or object of a version. `readers` verify it when they `read` it: two words for messages."""

    namespace: str
    uri: str
    digest: str
    platform: Platform
    readers: str = "the servers"
    read: str = "load"

    @property
    def own(self) -> str:
        """Folder of the version's namespace."""
        return f"s3://{self.platform.storage_bucket}/{self.namespace}/"

    @property
    def is_readable(self) -> bool:
        """True if it lies in a folder that every namespace, or its own, may read."""
        return self.uri.startswith((self.own, f"s3://{self.platform.storage_bucket}/shared/"))

    @property
    def is_foreign(self) -> bool:
        """True if only the operator's own keys would find it: the operator must not read it for others."""
        return self.platform.storage_confined and not self.is_readable

    @property
    def is_folder(self) -> bool:
        return self.uri.endswith("/")

    @property
    def question(self) -> CheckArtifact:
        """Question for its facts. It reads no more than the namespace's own keys could open."""
        return CheckArtifact(self.uri, hashes=not self.is_folder and self.is_readable)

    def verified(self, size: int) -> str:
        """Describe what is verified of `size` bytes, and what the readers check later."""
        if not self.is_folder and not (self.question.hashes and size <= MAX_HASHED):
            why = f"it has more than {MAX_HASHED // 2**20} MiB"
            if not self.is_readable:
                why = f"it is not below {self.own}"
            later = f"{self.readers} check it when they {self.read} it"
            return f"stored, but spec.digest is not verified yet, for {why}; {later}"
        if self.is_folder:
            later = f"{self.readers} check the files when they {self.read} them"
            return f"stored completely, and its list of files has spec.digest; {later}"
        return "stored, and its content has spec.digest"

    def assess(self, answer: object) -> tuple[str, Condition]:
        """Return the state and the condition Ready of a version, by the answer to `question`."""
        if isinstance(answer, ArtifactFacts):
            if answer.digest and answer.digest != self.digest:
                # The digest of another namespace's artifact is not shown: the namespace's own keys may not open it.
                other = answer.digest if self.uri.startswith(self.own) else "another"
                message = f"spec.digest is {self.digest}, but what lies at {self.uri} has {other}"
                return "Invalid", Condition("Ready", False, "DigestMismatch", message)
            return "Ready", Condition("Ready", True, FOUND.reason, self.verified(answer.bytes))
        if isinstance(answer, StorageError):
            return "Waiting", Condition("Ready", False, answer.reason, answer.message)
        return "Waiting", Condition("Ready", False, "Checking", f"asking the storage for {self.uri}")
