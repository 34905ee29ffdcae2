"""Package index for builds of environments on this machine's cluster, from the machine's own pip configuration."""

from __future__ import annotations

import configparser
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .buildah import pip_settings

if TYPE_CHECKING:
    from .target import Target

CONFIG_MAP, KEY = "ultramarine-index-ca", "ca.crt"


@dataclass(frozen=True)
class Index:
    """Index URLs without a login, and the file with their authorities, if any is set."""

    urls: tuple[str, ...] = ()
    extra_urls: tuple[str, ...] = ()
    bundle: Path | None = None

    @classmethod
    def of(cls, environment: dict[str, str]) -> Index:
        """Return the index that pip uses with these variables and the machine's files."""
        settings = configparser.RawConfigParser()
        settings.read_string(pip_settings(environment)[0])

        def urls(option: str) -> tuple[str, ...]:
            # A login does not belong into the values of a release: environments.secretName names its Secret.
            return tuple(url for url in settings.get("global", option, fallback="").split() if "@" not in url)

        bundle = Path(settings.get("global", "cert", fallback=os.devnull))
        return cls(urls("index-url"), urls("extra-index-url"), bundle if bundle.is_file() else None)

    def words(self) -> list[str]:
        """Return the chart's values, as KEY=JSON."""
        words = [f"environments.indexUrl={json.dumps(url)}" for url in self.urls]
        if self.extra_urls:
            words.append(f"environments.extraIndexUrls={json.dumps(self.extra_urls)}")
        if self.bundle:
            words.append(f"environments.ca.configMap={json.dumps(CONFIG_MAP)}")
        return words

    def give(self, target: Target, namespace: str) -> None:
        """Write the authorities into a ConfigMap of the release's namespace, which the operator's pod mounts."""
        if self.bundle is None:
            return
        made = ("create", "configmap", CONFIG_MAP, f"--from-file={KEY}={self.bundle}", "--dry-run=client", "-o", "json")
        manifest = target.run(*made)
        named = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        # By a manager of its own: an apply without labels takes away those of the same manager.
        own = ("apply", "--server-side", "--field-manager=ultramarine-cluster", "-f", "-")
        target.run(*own, input=json.dumps(named))
        # Not the client's apply, whose annotation has less room than a bundle of authorities.
        target.run("apply", "--server-side", "--force-conflicts", "-n", namespace, "-f", "-", input=manifest)
