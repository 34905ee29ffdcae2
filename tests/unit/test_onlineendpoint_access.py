"""Plans of an OnlineEndpoint's authentication and TLS behind the gateway."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from builders import NOW, child, condition, endpoint, kinds_of, seen, version
from msgspec.structs import replace
from pydantic import ValidationError
from ultramarine_contract.routes import RouteAuth, RouteState
from ultramarine_contract.serving_records import ServingTask
from ultramarine_operator.kinds.onlineendpoint.endpoint import LABEL_GATEWAY_ONLY, selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import (
    gateway_service,
    is_secure,
    network_policy,
    policy_name,
    route_auth,
    routes_config_map,
    routes_in,
)
from ultramarine_operator.shared.plan import Plan
from ultramarine_operator.shared.questions import GatewayFacts
from unit.test_onlineendpoint_plan import deployment, server_pod
from unit.test_onlineendpoint_routed import KEYS, address, after, blue, having, kept, routes_of, settled

ONE = (version(1),)
ANSWERS = {"traffic": {"blue": 100}}
KEY_SET = json.dumps({"keys": [{"kty": "RSA", "kid": "1", "n": "AQAB", "e": "AQAB"}]})
TOKEN = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwks": KEY_SET}
BY_TOKEN = {"authMode": "token", "token": TOKEN}
PROOF = "churn-gateway"  # the Secret
TLS = {"tls": {"secretName": "churn-tls"}}


def policy(owner):
    """The NetworkPolicy, as it is seen later."""
    made = network_policy(owner)
    return child("NetworkPolicy", made["metadata"]["name"], owner, made["spec"])


def guarded(owner):
    """blue with version 1, ready, in a pod that answers the gateway alone."""
    made = server_pod(owner, 1)
    made["metadata"]["labels"][LABEL_GATEWAY_ONLY] = "true"
    return deployment(owner, 1), made


def task_of(got):
    """Return the task of the first deployment's pods in a plan."""
    (made,) = (m for m in got.apply if m["kind"] == "Deployment")
    return ServingTask.from_json(made["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])


def lacking(config_map, secret, *, is_loaded=True, pods=1):
    """Gateway pods that miss a Secret, and go on with these routes where they knew them."""
    reason = f"Secret {secret} does not exist; create it"
    was = routes_in(config_map).version if is_loaded else ""
    return GatewayFacts((RouteState(was, reason, ready={"blue": 1}, missing_secret=secret),) * pods)


# ---- Keys


def test_the_gateway_asks_for_keys_and_the_pods_too():
    """Routes name the Secret that is generated in the same pass, and the pods mount and check the same keys."""
    got = after(endpoint(), related=ONE)

    assert routes_of(got).auth == RouteAuth("key", keys_secret="churn-keys")
    assert got.effects[0].metadata["name"] == "churn-keys"
    assert task_of(got).auth == "key"
    mine = after(endpoint(keysSecretRef={"name": "mine"}), related=ONE)
    assert routes_of(mine).auth == RouteAuth("key", keys_secret="mine")
    assert routes_of(after(endpoint(authMode="none"), related=ONE)).auth == RouteAuth("none")


def test_a_secret_that_is_not_there_is_named():
    """Routes that no gateway pod can use for want of a Secret: the condition names it, and nothing leads there."""
    owner = endpoint(keysSecretRef={"name": "mine"})
    config_map = kept(owner, after(owner, related=ONE))
    got = after(owner, *blue(owner), config_map, says=lacking(config_map, "mine", is_loaded=False), related=ONE)
    reported = condition(got, "RoutesReady")

    assert (reported["status"], reported["reason"]) == ("False", "SecretMissing")
    assert reported["message"] == "Secret mine not found in team-a. Create it with the keys primary and secondary"
    assert "Service/churn" not in kinds_of(got.apply)
    assert got.effects == ()
    assert "SecretMissing" not in [event.reason for event in got.events], "the pods tell it"


def test_a_deleted_secret_locks_nobody_out_and_is_told():
    """The keys are deleted while requests are answered: all goes on, the condition says so, no new keys are made."""
    owner = endpoint(KEYS | ANSWERS)
    at_rest = settled(owner, *blue(owner), related=ONE)
    got = after(owner, *blue(owner), *at_rest, says=lacking(at_rest[0], "churn-keys"), related=ONE)
    reported = condition(got, "RoutesReady")

    assert (reported["status"], reported["reason"]) == ("False", "SecretMissing")
    assert "Secret churn-keys not found in team-a" in reported["message"]
    assert "the gateway uses the former content" in condition(got, "Ready")["message"]
    assert condition(got, "Ready")["status"] == "True"
    assert got.status["traffic"] == {"blue": 100}
    assert (got.effects, got.delete) == ((), ())
    assert got.after is not None


def test_keys_are_made_again_when_no_gateway_pod_knows_the_old_ones():
    """New keys are made once no gateway pod has the old ones; until then they would lock clients out."""
    owner = endpoint(KEYS | ANSWERS)
    at_rest = settled(owner, *blue(owner), related=ONE)
    lost = lacking(at_rest[0], "churn-keys", is_loaded=False)
    some = GatewayFacts((*lost.proxies, *lacking(at_rest[0], "churn-keys").proxies))

    assert after(owner, *blue(owner), *at_rest, says=some, related=ONE).effects == ()
    (made,) = after(owner, *blue(owner), *at_rest, says=lost, related=ONE).effects
    assert made.metadata["name"] == "churn-keys"


# ---- Tokens


@pytest.mark.attack("client/around-the-gateway")
def test_pods_that_answer_the_gateway_alone_are_made_behind_a_policy():
    """With tokens the routes carry the issuer; the policy comes first, and pods that ask for proof when it was seen."""
    owner = endpoint(**BY_TOKEN)
    first = after(owner, related=ONE)
    assert kinds_of(first.apply) == [
        f"NetworkPolicy/{policy_name(owner)}",
        "Service/churn-blue-pods",
        "ConfigMap/churn-routes",
    ]
    assert first.after is not None
    assert first.effects[0].metadata["name"] == PROOF
    expected = RouteAuth("token", issuer=TOKEN["issuer"], audiences=("churn",), jwks=KEY_SET, proof_secret=PROOF)
    assert routes_of(first).auth == expected

    got = after(owner, policy(owner), related=ONE)
    (made,) = (m for m in got.apply if m["kind"] == "Deployment")
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert task_of(got).auth == "gateway"
    mounted = [
        volume["secret"]["secretName"] for volume in made["spec"]["template"]["spec"]["volumes"] if "secret" in volume
    ]
    assert mounted == [PROOF]
    assert network_policy(owner)["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert made["spec"]["selector"]["matchLabels"] == selector(owner, "blue"), "a selector cannot be changed later"
    assert "keysSecret" not in got.status


@pytest.mark.attack("client/around-the-gateway")
def test_pods_ask_for_proof_when_every_gateway_pod_gives_it():
    """Pods of an earlier release ask for nothing: they go on until new ones would be answered, and so would a retry."""
    owner = endpoint(ANSWERS, **BY_TOKEN)
    before, pod = guarded(owner)
    before["spec"]["template"]["spec"]["volumes"] = []
    early = replace(routes_of(after(owner, related=ONE)), auth=replace(route_auth(owner), proof_secret=""))
    map_of = kept(owner, Plan({}, apply=(routes_config_map(owner, early),)))
    waiting = after(owner, before, pod, map_of, policy(owner), says=having(map_of), related=ONE)
    assert "Deployment/churn-blue" not in kinds_of(waiting.apply)
    assert routes_of(waiting).auth.proof_secret == PROOF
    assert waiting.effects[0].metadata["name"] == PROOF

    shown = kept(owner, waiting)
    (new,) = having(shown).proxies
    for since, replaced in ((NOW - timedelta(seconds=70), False), (NOW - timedelta(seconds=80), True)):
        says = GatewayFacts((new, replace(new, since=since.isoformat())))
        got = after(owner, before, pod, shown, policy(owner), says=says, related=ONE)
        assert ("Deployment/churn-blue" in kinds_of(got.apply)) == replaced, "a gateway pod that ends has left"
    proven = after(owner, before, pod, shown, policy(owner), says=having(shown), related=ONE)
    assert "Deployment/churn-blue" in kinds_of(proven.apply)
    assert proven.effects == ()
    (made,) = after(owner, before, pod, shown, policy(owner), says=lacking(shown, PROOF), related=ONE).effects
    assert made.metadata["name"] == PROOF, "it was deleted, and is made again"


def test_a_key_set_that_cannot_be_had_is_told():
    """The endpoint goes on, for those whose tokens the last one opens, and the condition says what is wrong."""
    uri = "https://id.example.com/keys"
    owner = endpoint(ANSWERS, authMode="token", token={"issuer": "id", "audiences": ["churn"], "jwksUri": uri})
    at_rest = settled(owner, policy(owner), *guarded(owner), related=ONE)
    says = GatewayFacts((replace(having(at_rest[0]).proxies[0], no_key_set="it answers 500"),))
    got = after(owner, *guarded(owner), *at_rest, policy(owner), says=says, related=ONE)
    reported = condition(got, "RoutesReady")
    assert (reported["status"], reported["reason"]) == ("False", "NoKeySet")
    assert reported["message"] == f"cannot fetch the key set at {uri}: it answers 500"
    assert got.status["traffic"] == {"blue": 100}


def test_tokens_are_asked_for_when_no_pod_asks_for_keys():
    """From keys to tokens: the gateway asks for keys until the last pod that checks them has gone."""
    before = endpoint(KEYS | ANSWERS)
    at_rest = settled(before, *blue(before), related=ONE)
    owner = endpoint(KEYS | ANSWERS, **BY_TOKEN)
    rolling = after(owner, *blue(before), *at_rest, policy(owner), says=having(at_rest[0]), related=ONE)
    assert routes_of(rolling).auth == RouteAuth("key", keys_secret="churn-keys", proof_secret=PROOF)
    assert condition(rolling, "Reconciling") != {}
    shown = kept(owner, rolling)
    waiting = after(owner, *blue(before), shown, at_rest[1], policy(owner), says=having(shown), related=ONE)
    assert "checks keys instead of tokens" in condition(waiting, "RoutesReady")["message"]

    rolled = after(owner, *guarded(owner), *at_rest, policy(owner), says=having(at_rest[0]), related=ONE)
    assert routes_of(rolled).auth.mode == "token"


@pytest.mark.attack("client/around-the-gateway")
def test_the_policy_stays_as_long_as_pods_need_it():
    """From tokens to keys: the gateway asks for keys at once; the policy goes after the last pod without a check."""
    before = endpoint(ANSWERS, **BY_TOKEN)
    owner = endpoint(KEYS | ANSWERS)
    at_rest = settled(before, policy(before), *guarded(before), related=ONE)
    turning = after(owner, *guarded(before), *at_rest, policy(before), says=having(at_rest[0]), related=ONE)
    assert routes_of(turning).auth == RouteAuth("key", keys_secret="churn-keys", proof_secret=PROOF)
    assert turning.delete == ()

    leaving = {**guarded(before)[1], "status": {"phase": "Running"}}
    leaving["metadata"] = {**leaving["metadata"], "name": "churn-blue-old"}
    unseen = deployment(owner, 1, rolled=False)
    assert after(owner, unseen, *at_rest, policy(before), says=having(at_rest[0]), related=ONE).delete == ()
    rolled = (*blue(owner), *settled(owner, *blue(owner), related=ONE))
    assert after(owner, *rolled, leaving, policy(before), says=having(rolled[2]), related=ONE).delete == ()
    assert routes_of(after(owner, *rolled, says=having(rolled[2]), related=ONE)).auth.proof_secret == ""
    last = after(owner, *rolled, policy(before), says=having(rolled[2]), related=ONE)
    assert [ref.name for ref in last.delete] == [policy_name(owner)]


@pytest.mark.attack("client/around-the-gateway")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (BY_TOKEN, "authMode: token needs the gateway, and namespace team-a has none"),
        (TLS, "tls needs the gateway"),
        (BY_TOKEN | TLS, "authMode: token and tls needs the gateway"),
    ],
)
def test_what_only_a_gateway_can_do_is_not_done_without_one(spec, words):
    """Without a gateway no request is accepted unchecked or by plain HTTP: nothing is changed."""
    owner = endpoint(**spec)
    for children in ((), (*blue(endpoint()), address(owner, "blue"))):
        got = plan(owner, seen(*children, related=ONE), NOW)
        assert (got.apply, got.delete) == ((), ())
        assert (condition(got, "Ready")["status"], condition(got, "RoutesReady")["reason"]) == ("False", "NoGateway")
        assert words in condition(got, "Stalled")["message"]


@pytest.mark.attack(
    "client/private-key",
    asset="tokens",
    threat="made by an attacker who reads a private key in a spec",
    control="a key set with private or symmetric keys is refused",
)
@pytest.mark.parametrize(
    ("jwks", "words"),
    [
        ("nonsense", "must be a complete JSON Web Key Set"),
        ('{"keys": []}', "must be a complete JSON Web Key Set"),
        ("[1]", "must be a complete JSON Web Key Set"),
        ('{"keys": ["a"]}', "must be a complete JSON Web Key Set"),
        ('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"}]}', "public keys only"),
        ('{"keys": [{"kty": "oct", "k": "AQAB"}]}', "public keys only"),
    ],
)
def test_a_key_set_is_public_keys(jwks, words):
    """A text that is not a key set is refused with a message, and so is a set with a private key."""
    with pytest.raises(ValidationError, match=words):
        endpoint(authMode="token", token={**TOKEN, "jwks": jwks})


# ---- TLS


def secured(owner, port):
    """The Service, turned to a port of the gateway where TLS is spoken."""
    return child("Service", "churn", owner, gateway_service(owner, port, secure=True)["spec"])


def service_of(got):
    """The endpoint's own Service in a plan."""
    return next((made for made in got.apply if made["metadata"]["name"] == "churn"), None)


def test_an_endpoint_with_a_certificate_is_asked_by_https():
    """The routes name the Secret; when every gateway pod has them the Service has port 443, and the url says https."""
    owner = endpoint(KEYS, **TLS)
    first = after(owner, *blue(owner), related=ONE)
    config_map = kept(owner, first)
    assert routes_of(first).tls_secret == "churn-tls"
    assert first.status["url"] == "https://churn.team-a.svc"

    missing = after(
        owner, *blue(owner), config_map, says=lacking(config_map, "churn-tls", is_loaded=False), related=ONE
    )
    assert (
        "Secret churn-tls not found in team-a. Create it with tls.crt" in condition(missing, "RoutesReady")["message"]
    )
    assert [event.type for event in missing.events if event.reason == "SecretMissing"] == ["Warning"]

    made = service_of(after(owner, *blue(owner), config_map, says=having(config_map), related=ONE))
    assert {port["name"]: port["port"] for port in made["spec"]["ports"]} == {"https": 443, "grpc": 9000}
    at_rest = secured(owner, routes_in(config_map).port)
    last = after(owner, *blue(owner), config_map, at_rest, says=having(config_map), related=ONE)
    assert condition(last, "RoutesReady")["status"] == "True"
    assert condition(last, "Reconciling") == {}


@pytest.mark.parametrize("to_tls", [True, False])
def test_the_service_changes_its_scheme_when_the_gateway_has(to_tls):
    """Turned to TLS, or back: Service and url stay as they are until every gateway pod speaks the other way."""
    before = endpoint(KEYS | ANSWERS, **({} if to_tls else TLS))
    owner = endpoint(KEYS | ANSWERS, **(TLS if to_tls else {}))
    old = kept(before, after(before, *blue(before), related=ONE))
    port = routes_in(old).port
    service = address(before, port) if to_tls else secured(before, port)
    edited = after(owner, *blue(owner), old, service, says=having(old), related=ONE)
    assert is_secure(service_of(edited)) is not to_tls
    new = kept(owner, edited)

    waiting = after(owner, *blue(owner), new, service, says=having(old), related=ONE)
    assert is_secure(service_of(waiting)) is not to_tls
    assert waiting.status["url"].startswith("http:" if to_tls else "https:")
    got = after(owner, *blue(owner), new, service, says=having(new), related=ONE)
    assert is_secure(service_of(got)) is to_tls
    assert got.status["url"].startswith("https:" if to_tls else "http:")
    assert got.status["traffic"] == {"blue": 100}
    assert condition(got, "RoutesReady")["status"] == "False", "the Service is not seen turned yet"
