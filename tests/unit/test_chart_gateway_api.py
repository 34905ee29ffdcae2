"""The chart with the users' own Gateways, and the operator's reading of its values."""

from __future__ import annotations

import pytest
from ultramarine_contract.meta import GRPC_ROUTE, HTTP_ROUTE
from ultramarine_operator.kinds import KINDS, kinds_on
from ultramarine_operator.shared.plan import GatewayApi, ParentRef
from unit.rendered import GATEWAY_API, PUBLIC, names, of, operator_settings

ROUTES = {"httproutes", "grpcroutes"}
URL = GATEWAY_API["gatewayApi"]["url"]


def rights(objects):
    """The types that the operator may do something with, by the name of its Role or ClusterRole."""
    roles = (r for r in of(objects, "Role", "ClusterRole") if r["metadata"]["name"].startswith("ultramarine-operator"))
    return {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}


@pytest.fixture
def gateway_api_of(chart):
    """Gives the settings of an operator that these values install."""

    def read(values):
        return operator_settings(chart.render(values)).platform("platform").gateway_api

    return read


def test_the_operator_is_told_of_the_gateways(gateway_api_of):
    """The values go through the operator's settings as they are, with what they leave out as it is by default."""
    public = ParentRef("public", "infra", "https")
    assert gateway_api_of(GATEWAY_API) == GatewayApi((public,), URL, grpc=True)

    two = {"parentRefs": [PUBLIC, {"name": "inner", "port": 8080}], "url": URL, "grpc": False}
    got = gateway_api_of({**GATEWAY_API, "gatewayApi": two})
    assert got == GatewayApi((public, ParentRef("inner", port=8080)), URL, grpc=False)


@pytest.mark.attack(
    "operator/routes",
    asset="routes of the cluster's Gateways",
    threat="the operator writes HTTPRoutes and GRPCRoutes of any host name in the namespaces that it looks after",
    control="it has rights on them only with `gatewayApi.parentRefs`; a route that it did not make stays as it "
    "is; which namespaces may have which host names is for the Gateway's listeners to say",
)
def test_routes_are_watched_and_allowed_only_where_there_are_such_gateways(chart, gateway_api_of):
    """By default there is neither a right on them nor a watch of them: the cluster may not know the types."""
    assert gateway_api_of({}) is None
    assert rights(chart.render({})) & ROUTES == set()
    for values in (GATEWAY_API, {**GATEWAY_API, "clusterWide": True}):
        assert rights(chart.render(values)) >= ROUTES

    def watched(kinds):
        return {child for kind in kinds for child in kind.children}

    here = operator_settings(chart.render(GATEWAY_API)).platform("platform")
    assert watched(kinds_on(here)) - watched(KINDS) == {HTTP_ROUTE, GRPC_ROUTE}


def test_nothing_of_our_gateway_is_there_beside_them(chart):
    """No Envoy, and the operator is not told of one."""
    got = chart.render(GATEWAY_API)

    assert [item for item in names(got, "Deployment", "Service") if item.endswith("gateway")] == []
    assert operator_settings(got).gateway.address == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gatewayApi": GATEWAY_API["gatewayApi"]}, "set gateway.enabled=false"),
        ({**GATEWAY_API, "gatewayApi": {"parentRefs": [PUBLIC]}}, "needs gatewayApi.url"),
        ({**GATEWAY_API, "gatewayApi": {"parentRefs": [PUBLIC], "url": "https://{endpoint}.x"}}, "match pattern"),
        ({**GATEWAY_API, "gatewayApi": {"parentRefs": [{"namespace": "infra"}], "url": URL}}, "'name'"),
        ({**GATEWAY_API, "gatewayApi": {"parentRefs": [{"name": "a", "kind": "Mesh"}], "url": URL}}, "'kind'"),
    ],
)
def test_values_that_cannot_be_are_refused(chart, values, words):
    """Both kinds of gateways, no address, an address that is the same for all, and an invalid reference."""
    assert words in chart.refusal(values)


@pytest.mark.parametrize(
    "url", ["https://{endpoint}-{namespace}.ml.example.com:8443", "http://{namespace}.a.{endpoint}.b"]
)
def test_any_address_that_tells_endpoints_apart_will_do(gateway_api_of, url):
    """The two words may stand anywhere in the host name; a port does not belong to it."""
    got = gateway_api_of({**GATEWAY_API, "gatewayApi": {"parentRefs": [PUBLIC], "url": url}})

    hosts = {got.host_of("team-a", "churn", grpc=grpc) for grpc in (False, True)}
    assert len(hosts) == 2
    assert all("{" not in host and ":" not in host and "/" not in host for host in hosts)
