"""Parts of specs that concern pods: code, environment variables, scheduling and identity."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .base import SAYS_NAME, SUBDOMAIN, Digest, Quantity, Schema, Uri, rule, rules, says

LABEL_VALUE = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = f"({SUBDOMAIN}/)?{LABEL_VALUE}"
SAYS_VALUE = says("must be a label value: letters, digits, '-', '_' and '.', with a letter or digit at both ends")


class ObjectName(Schema):
    """Object in the same namespace."""

    name: str = Field(
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        description="Name of the object.",
        json_schema_extra=SAYS_NAME,
    )


GIT_HOST = "[A-Za-z0-9._-]+@[A-Za-z0-9][A-Za-z0-9.-]*"
GIT_URL = rf"^(https?://[^\s@]+|ssh://{GIT_HOST}(:[0-9]{{1,5}})?/[^\s@]+|{GIT_HOST}:[^\s:@-][^\s:@]*)$"


class GitSource(Schema):
    """Commit of a git repository."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!self.url.contains('@') || has(self.secretRef)",
                "ssh needs a key; set secretRef to a Secret with ssh-privatekey and known_hosts",
            )
        )
    )

    url: str = Field(
        pattern=GIT_URL,
        max_length=1024,
        description="URL of the repository, by https, http or ssh (ssh://git@HOST/PATH or git@HOST:PATH). The "
        "namespace's network policies must let pods reach it.",
        json_schema_extra=says(
            "must be https:// or http:// without a user, ssh://USER@HOST/PATH or USER@HOST:PATH; put a "
            "password into the Secret of secretRef"
        ),
    )
    ref: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*)?$",
        max_length=255,
        description="Branch, tag or complete commit ID. Default: the default branch. Only this commit is fetched; "
        "status.provenance.gitCommit records it.",
        json_schema_extra=says("must be a branch, a tag or a commit ID of 40 hexadecimal digits"),
    )
    path: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$",
        max_length=1024,
        description="Folder of the repository to take files from. Default: all of it.",
        json_schema_extra=says("must be the path of a folder in the repository, such as src/train"),
    )
    secret_ref: ObjectName | None = Field(
        default=None,
        description="Secret with credentials for the repository. For https: password or token, username if the "
        "server needs one, and ca.crt for a private CA. For ssh: ssh-privatekey and known_hosts. The "
        "command cannot read them.",
    )


class Source(Schema):
    """Source of the code: inline, configMap, git or uri."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.inline), has(self.configMap), has(self.git), has(self.uri)].filter(it, it).size() == 1",
                "give one of inline, configMap, git and uri",
            ),
            rule("!has(self.digest) || has(self.uri)", "digest applies to the archive at uri; leave it out"),
            rule(
                "!has(self.uri) || !self.uri.endsWith('/')",
                "uri must name one archive, not a folder; remove the slash at its end",
            ),
        )
    )

    inline: dict[str, Annotated[str, Field(max_length=262144)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Content by file name; the command starts in the folder of these files. Maximum 900 KB together;"
        " above 256 KB, kubectl needs apply --server-side.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z0-9._-]+$') && size(key) <= 253)",
                "each key must be a plain file name",
            ),
            rule(
                "self.all(key, key != '.' && !key.startsWith('..'))",
                "each key must be a plain file name that does not begin with two dots",
            ),
            rule(
                "self.map(key, size(self[key])).sum() <= 900000",
                "the files together have more than 900,000 characters; put larger files into an image or an input",
            ),
        ),
    )

    config_map: ObjectName | None = Field(default=None, description="ConfigMap with the files.")
    git: GitSource | None = Field(default=None, description="Git repository with the files.")
    uri: Uri | None = Field(
        default=None,
        description="Tar archive in the object storage, plain or compressed (.tar.gz). It is unpacked into the "
        "folder in which the command starts.",
    )
    digest: Digest | None = Field(
        default=None, description="Expected SHA-256 of the archive; the job fails if it differs."
    )


class EnvFromSource(Schema):
    """Environment variables from all keys of a Secret or ConfigMap."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.secretRef) != has(self.configMapRef)", "give one of secretRef and configMapRef"),
        )
    )
    prefix: str = Field(
        default="",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        max_length=64,
        description="Prefix of each variable.",
        json_schema_extra=says("must be letters, digits and '_', and must not begin with a digit")
        | rules(rule("!self.startsWith('ULTRAMARINE_')", "the prefix ULTRAMARINE_ is reserved; choose another prefix")),
    )
    secret_ref: ObjectName | None = Field(default=None, description="Secret with the variables.")
    config_map_ref: ObjectName | None = Field(default=None, description="ConfigMap with the variables.")


class Toleration(Schema):
    """Toleration of a taint, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "a toleration without a key needs operator Exists, which tolerates every taint; set it, or give a key",
            ),
            rule(
                "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
                "operator Exists takes no value; leave value out, or set operator to Equal",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect NoExecute; set it, or leave tolerationSeconds out",
            ),
        )
    )

    key: str = Field(
        default="",
        pattern=f"^({LABEL_KEY})?$",
        max_length=253,
        description="Key of the taint. Default: every taint.",
        json_schema_extra=says("must be the key of a taint, such as nvidia.com/gpu"),
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None,
        description="Operator. Equal (the default): the taint has this value. Exists: the taint has any value.",
    )
    value: str = Field(
        default="",
        pattern=f"^({LABEL_VALUE})?$",
        max_length=63,
        description="Value of the taint.",
        json_schema_extra=SAYS_VALUE,
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Default: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=31536000,
        description="Time in seconds for which a NoExecute taint is tolerated. Default: no limit.",
    )


def _as_in_a_pod(description: str) -> Any:
    """Return a field with a part of Kubernetes' own schema, which the API server validates when it gets the Job."""
    return Field(
        default=None,
        max_length=2,
        description=description,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Affinity(Schema):
    """Affinity of the pods to nodes and to other pods, as in a pod."""

    node_affinity: dict[str, Any] | None = _as_in_a_pod("Required and preferred nodes.")
    pod_affinity: dict[str, Any] | None = _as_in_a_pod("Required and preferred pods nearby.")
    pod_anti_affinity: dict[str, Any] | None = _as_in_a_pod("Pods to keep away from, required and preferred.")


class ClaimVolume(Schema):
    """PersistentVolumeClaim of the same namespace in the pods."""

    claim_name: str = Field(
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        description="Name of the PersistentVolumeClaim.",
        json_schema_extra=SAYS_NAME,
    )
    mount_path: str = Field(
        pattern=r"^/(mnt|data|cache)(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        max_length=253,
        description="Folder of the volume in the container: /data, /cache or a folder below /mnt that the platform does"
        " not use.",
        json_schema_extra=says("must be a folder such as /data, /cache/huggingface or /mnt/shared")
        | rules(
            rule(
                "!self.matches('^/mnt(/(source|git-credentials|inputs|outputs|checkpoints|model|compiled|captures|"
                "environment|scoring)(/.*)?)?$')",
                "mountPath is a folder of the platform; choose another, such as /data",
            )
        ),
    )
    read_only: bool = Field(default=False, description="True to mount the volume read-only.")


class PodTemplate(Schema):
    """Scheduling and identity of the pods. The platform sets all other fields of a pod."""

    node_selector: dict[
        str, Annotated[str, Field(pattern=f"^({LABEL_VALUE})?$", max_length=63, json_schema_extra=SAYS_VALUE)]
    ] = Field(
        default={},
        max_length=32,
        description="Labels that the node must have.",
        json_schema_extra=rules(
            rule(
                f"self.all(key, key.matches('^{LABEL_KEY}$') && size(key) <= 253)",
                "each key must be a label key, such as topology.kubernetes.io/zone",
            )
        ),
    )
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Taints that the pods tolerate.")
    affinity: Affinity | None = Field(
        default=None,
        description="Affinity to nodes and pods, as in a pod. If the API server refuses it, unknown fields included,"
        " the condition Reconciled has its message.",
    )
    priority_class_name: str = Field(
        default="",
        pattern=f"^({SUBDOMAIN})?$",
        max_length=253,
        description="PriorityClass of the pods.",
        json_schema_extra=SAYS_NAME
        | rules(
            rule("!self.startsWith('system-')", "the prefix system- is reserved by the cluster; name another class"),
            rule(
                "!self.startsWith('ultramarine-platform')",
                "the prefix ultramarine-platform is reserved by the platform; name another class",
            ),
        ),
    )
    service_account_name: str = Field(
        default="",
        pattern=f"^({SUBDOMAIN})?$",
        max_length=253,
        description="ServiceAccount whose token the pods get. Default: no token.",
        json_schema_extra=SAYS_NAME,
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="Size of /dev/shm, which counts as the container's memory. Default: 64 MiB, that of the runtime.",
    )
    volumes: list[ClaimVolume] = Field(
        default=[],
        max_length=8,
        description="PersistentVolumeClaims in the pods.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mountPath"]},
    )
