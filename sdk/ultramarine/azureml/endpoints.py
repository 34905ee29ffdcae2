"""Online endpoints: a file of an endpoint and the files of its deployments become one OnlineEndpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.context import Context, Names, Refused, metadata_of, object_name
from ultramarine.azureml.deployments import convert_deployment
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Document
from ultramarine.azureml.recognition import DEPLOYMENT, ENDPOINT
from ultramarine.azureml.report import shown

MAX_DEPLOYMENTS = 8
LOST = {
    "identity": ("has no counterpart", "Set podTemplate.serviceAccountName of a deployment if its code needs it"),
    "public_network_access": ("has no counterpart", "An Ingress or a Gateway decides who reaches the endpoint"),
    "compute": ("has no counterpart", "Use podTemplate.nodeSelector of a deployment"),
}


@dataclass
class Group:
    """Files of one endpoint: of one folder and one name."""

    name: str
    endpoint: Document | None = None
    deployments: list[Document] = field(default_factory=list)


def grouped(endpoints: list[Document], deployments: list[Document]) -> list[Group]:
    """Return the files by endpoint. A second file for an endpoint or a deployment begins another group."""
    groups: dict[tuple[Path, str], list[Group]] = {}
    for document in endpoints:
        name = str(document.value.get("name") or document.file.stem)
        groups.setdefault((document.file.parent, name), []).append(Group(name, document))
    for document in deployments:
        name = str(document.value.get("endpoint_name") or "")
        near = {key for key in groups if key[0] == document.file.parent}
        if (not name or "<" in name or name in dict(document.placeholders).values()) and len(near) == 1:
            (_, name) = near.pop()
        name = name or document.file.stem
        places = groups.setdefault((document.file.parent, name), [])
        for group in places:
            if _has_room(group, document):
                group.deployments.append(document)
                break
        else:
            places.append(Group(name, places[0].endpoint if places else None, [document]))
    all_groups = [group for places in groups.values() for group in places]
    for group in all_groups:
        if not group.deployments and group.endpoint is not None and "deployments" not in group.endpoint.value:
            partner = next((other for other in all_groups if other.endpoint is None and other.name == group.name), None)
            if partner is not None:
                partner.endpoint = group.endpoint
    return [group for group in all_groups if group.deployments or not _is_shared(group, all_groups)]


def _is_shared(group: Group, groups: list[Group]) -> bool:
    """True if the deployments of this endpoint's file are in another group."""
    return any(other.deployments and other.endpoint is group.endpoint for other in groups)


def _has_room(group: Group, document: Document) -> bool:
    own = group.endpoint.value.get("deployments") if group.endpoint else None
    if own or len(group.deployments) >= MAX_DEPLOYMENTS:
        return False
    return all(other.value.get("name") != document.value.get("name") for other in group.deployments)


def convert_group(context: Context, group: Group) -> None:
    """Make an OnlineEndpoint of a group."""
    endpoint = context.fields(group.endpoint) if group.endpoint else None
    members = [context.fields(document) for document in group.deployments]
    if endpoint is not None and not members:
        members = _inline(context, endpoint)
    if not members:
        raise Refused(_without_deployments(context, group))
    name = context.names.free("OnlineEndpoint", group.name)
    owner = endpoint or members[0]
    if endpoint is None:
        _explain_missing_endpoint(context, members[0], group.name, name)
    if name != group.name:
        key = "name" if endpoint is not None else "endpoint_name"
        owner.lose(key, f"{group.name[:80]} became {name}", "Use this name, or convert other files of it separately")
    spec: Manifest = {}
    metadata: Manifest = {}
    if endpoint is not None:
        metadata = metadata_of(endpoint)
        _authenticate(endpoint, spec)
    names = Names()
    converted = [convert_deployment(context, member, name, names) for member in members]
    spec["deployments"] = [deployment for deployment, _ in converted]
    collectors = [collector for _, collector in converted if collector is not None]
    if collectors:
        spec["dataCollector"] = collectors[0]
    _share(endpoint, owner, spec)
    if endpoint is not None:
        endpoint.take("deployments")
        endpoint.close(LOST, ignored=("name", "defaults", "kind", "scoring_uri", "openapi_uri"))
    documents = [document for document in (group.endpoint, *group.deployments) if document is not None]
    context.add(documents[-1], "OnlineEndpoint", name, spec, metadata)
    for document in documents[:-1]:
        context.note(document, f"OnlineEndpoint/{name}")


def _without_deployments(context: Context, group: Group) -> str:
    """Say which files belong to an endpoint's file, and how to give all of them."""
    files = [shown(document.file) for document in _of_schema(context, DEPLOYMENT, "endpoint_name", group.name)]
    if not files or group.endpoint is None:
        return f"has no deployment. Convert it together with the files whose endpoint_name is {group.name[:80]}"
    together = " ".join((shown(group.endpoint.file), *files))
    return (
        f"has no deployment, and an OnlineEndpoint needs one. Run `ultramarine convert azureml {together} -o DIR`, then"
        f" `ultramarine apply DIR`; or submit {files[0]}, which makes the endpoint too"
    )


def _explain_missing_endpoint(context: Context, member: Fields, group: str, name: str) -> None:
    """Record what a deployment's file does not say about its endpoint."""
    if "endpoint_name" not in member:
        remedy = "Write endpoint_name, or rename the object"
        member.lose("endpoint_name", f"is missing, so the endpoint is {name}", remedy)
    for document in _of_schema(context, ENDPOINT, "name", group)[:1]:
        problem = f"{shown(document.file)} has the endpoint's authentication and traffic, and was not named"
        member.lose("endpoint_name", problem, "Convert both files together to use them")


def _of_schema(context: Context, schema: str, key: str, name: str) -> list[Document]:
    """Return the documents beside the named files that have a schema and a name."""
    return [document for document, other in context.beside if other == schema and document.value.get(key) == name]


def _inline(context: Context, endpoint: Fields) -> list[Fields]:
    """Return the deployments inside an endpoint, as early releases wrote them: a list, or a mapping by name."""
    value = endpoint.take("deployments")
    if isinstance(value, dict):
        entries = [(key, {"name": key, **entry}) for key, entry in value.items() if isinstance(entry, dict)]
    else:
        listed = value if isinstance(value, list) else []
        entries = [(str(index), entry) for index, entry in enumerate(listed) if isinstance(entry, dict)]
    return [
        Fields(endpoint.document, context.losses, ("deployments", key), entry)
        for key, entry in entries[:MAX_DEPLOYMENTS]
    ]


def _authenticate(endpoint: Fields, spec: Manifest) -> None:
    mode = endpoint.text("auth_mode", "auth_type").lower()
    if mode.endswith("token"):
        endpoint.lose("auth_mode", f"{mode} became key", "Set authMode: token with the issuer of your JWTs in token")
    elif mode == "none":
        spec["authMode"] = "none"
    elif mode not in ("", "key"):
        endpoint.lose("auth_mode", f"{mode[:40]} became key", "Set spec.authMode to key, token or none")


def _share(endpoint: Fields | None, owner: Fields, spec: Manifest) -> None:
    """Set traffic, whose sum must be 100, and mirror traffic, whose deployments must answer nothing."""
    names = [deployment["name"] for deployment in spec["deployments"]]
    traffic = _percentages(endpoint, "traffic", names)
    total = sum(traffic.values())
    if len(names) > 1 and not total:
        owner.lose("traffic", f"is missing, so {names[0]} gets all of it", "Set spec.traffic")
        traffic = {names[0]: 100}
    elif total not in (0, 100):
        largest = max(traffic, key=lambda name: traffic[name])
        traffic[largest] = min(max(traffic[largest] + 100 - total, 0), 100)
        owner.lose("traffic", f"sums to {total}, so {largest} gets {traffic[largest]} %", "Set spec.traffic")
        if sum(traffic.values()) != 100:
            traffic = {largest: 100}
    if len(names) > 1:
        spec["traffic"] = {name: share for name, share in traffic.items() if share}
    mirror = {name: share for name, share in _percentages(endpoint, "mirror_traffic", names).items() if share}
    idle = {name: share for name, share in mirror.items() if len(names) > 1 and not traffic.get(name)}
    if endpoint is not None and mirror != idle:
        endpoint.lose("mirror_traffic", "names a deployment that answers requests", "Mirror to one without traffic")
    if idle:
        spec["mirrorTraffic"] = idle


def _percentages(endpoint: Fields | None, key: str, names: list[str]) -> dict[str, int]:
    if endpoint is None:
        return {}
    section = endpoint.section(key)
    shares: dict[str, int] = {}
    for text in section.keys:
        share = section.whole(text, 0, 100) or 0
        name = object_name(text)
        if name in names:
            shares[name] = share
        elif share:
            section.lose(text, "is not among the converted deployments", "Convert its file too")
    return shares
