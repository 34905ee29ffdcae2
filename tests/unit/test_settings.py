"""The operator's settings: what is wrong is named at the start, by file and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultramarine_operator import settings

GOOD = """
images: {trainer: t:1, server: s:1}
storage: {bucket: lake, secretName: keys}
"""


def test_what_is_left_out_has_its_default():
    """Images and the bucket are all that must be given."""
    platform = settings.parse(GOOD).platform("platform")
    assert (platform.trainer_image, platform.storage_bucket, platform.features) == ("t:1", "lake", ())
    assert platform.username == "system:serviceaccount:platform:ultramarine-operator"


def test_the_authorities_of_the_index_are_read_once(tmp_path: Path):
    """The file of the release's ConfigMap becomes a part of the settings; without the ConfigMap there are none."""
    file = tmp_path / "ca.crt"
    more = f"{GOOD}\nenvironments: {{authorities: {file}}}\n"

    assert settings.parse(more).platform("platform").environments.authorities == ""
    file.write_text("PEM")
    assert settings.parse(more).platform("platform").environments.authorities == "PEM"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("port: eight", "port"),
        ("nothing: 1", "nothing"),
        ("namespaces: ['*', team-a]", "namespaces"),
        ("gateway: {address: here}", "gateway.address"),
        ("gatewayApi: {parentRefs: [], url: 'https://{endpoint}.{namespace}'}", "gatewayApi.parentRefs"),
        ("gatewayApi: {parentRefs: [{}], url: 'https://{endpoint}.{namespace}'}", "gatewayApi.parentRefs.0.name"),
        ("gatewayApi: {parentRefs: [{name: a}], url: b}", "gatewayApi.url"),
        ("storage: {}", "storage.bucket"),
        ("- a", "not YAML"),
    ],
)
def test_a_fault_is_named_with_its_file_and_field(tmp_path: Path, more: str, field: str):
    """A wrong file stops the operator at its start."""
    file = tmp_path / "settings.yaml"
    file.write_text(f"{GOOD}\n{more}\n")
    with pytest.raises(ValueError, match=rf"{file}: {field}"):
        settings.read(file)


def test_a_missing_file_is_named(tmp_path: Path):
    """The chart writes the file, so its absence is a fault of the installation."""
    with pytest.raises(ValueError, match="The Helm chart writes"):
        settings.read(tmp_path / "settings.yaml")


def test_variables_of_older_releases_are_named() -> None:
    """They have no effect any more; the one for the storage's authority still has."""
    environment = {"ULTRAMARINE_PORT": "1", "ULTRAMARINE_GATEWAY": "", "ULTRAMARINE_STORAGE_CA": "x", "HOME": "/"}

    assert settings.ignored(environment) == ["ULTRAMARINE_GATEWAY", "ULTRAMARINE_PORT"]
