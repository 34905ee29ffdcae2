"""The rules of who may ask an OnlineEndpoint, and of its certificate; see rules.py."""

from __future__ import annotations

from typing import Any

from rules import ENDPOINT, OBJECT, Rule, of_spec
from ultramarine_contract.meta import Manifest

KEY_SET = '{"keys": [{"kty": "RSA", "kid": "1", "n": "AQAB", "e": "AQAB"}]}'
NO_KEY_SET = 'must be a complete JSON Web Key Set, such as {"keys": [{"kty": "RSA", ...}]}'
URI = "must be http:// or https:// and a host name, with no spaces and no user"


def token(**fields: Any) -> Manifest:
    """An endpoint that wants tokens; a field that is None is left out."""
    whole = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwks": KEY_SET} | fields
    said = {name: value for name, value in whole.items() if value is not None}
    return {"authMode": "token", "keysSecretRef": None, "token": said}


RULES: list[Rule] = [
    of_spec(
        ENDPOINT,
        "a Secret with keys is named as Secrets are",
        {"keysSecretRef": {"name": "churn.keys-2"}},
        {"keysSecretRef": {"name": "Keys"}},
        "spec.keysSecretRef.name: ",
        OBJECT,
    ),
    of_spec(
        ENDPOINT,
        "tokens need whose they are",
        token(),
        {"authMode": "token", "keysSecretRef": None},
        "spec: ",
        "authMode: token needs token; set token with the issuer, audiences and keys",
    ),
    of_spec(
        ENDPOINT,
        "whose tokens open is said for tokens only",
        token(),
        token() | {"authMode": "none"},
        "spec: ",
        "token needs authMode: token; remove one of the two",
    ),
    of_spec(
        ENDPOINT,
        "tokens and keys do not go together",
        token(),
        token() | {"keysSecretRef": {"name": "mine"}},
        "spec: ",
        "keysSecretRef needs authMode: key; remove one of the two",
    ),
    of_spec(
        ENDPOINT,
        "tokens are checked with a key set",
        token(),
        token(jwks=None),
        "spec.token: ",
        "give one of jwks and jwksUri",
    ),
    of_spec(
        ENDPOINT,
        "tokens are checked with one key set",
        token(jwks=None, jwksUri="https://id.example.com/keys"),
        token(jwksUri="https://id.example.com/keys"),
        "spec.token: ",
        "give one of jwks and jwksUri",
    ),
    *(
        of_spec(ENDPOINT, "a key set is whole", token(), token(jwks=part), "spec.token.jwks", NO_KEY_SET)
        for part in (KEY_SET[: len(KEY_SET) // 2], KEY_SET[:-1], '{"keys": []}', "keys")
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a token's {name} ends",
            token(**{"jwks": None if name == "jwksUri" else KEY_SET, name: right}),
            token(**{"jwks": None if name == "jwksUri" else KEY_SET, name: wrong}),
            f"spec.token.{name}",
            words,
        )
        for name, right, wrong, words in (
            ("issuer", "a" * 512, "a" * 513, "Too long: may not be more than 512"),
            ("audiences", ["a" * 256], ["a" * 257], "Too long: may not be more than 256"),
            ("audiences", ["a"] * 16, ["a"] * 17, "Too many: 17: must have at most 16 items"),
            ("jwks", KEY_SET.ljust(32768), KEY_SET.ljust(32769), "Too long: may not be more than 32768"),
            ("jwksUri", "https://a/" + "a" * 1014, "https://a/" + "a" * 1015, "Too long: may not be more than 1024"),
        )
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a key set is not fetched from {uri}",
            token(jwks=None, jwksUri="http://id.team-a.svc:8080/.well-known/jwks.json?v=1"),
            token(jwks=None, jwksUri=uri),
            "spec.token.jwksUri: ",
            URI,
        )
        for uri in ("id.example.com/keys", "file:///etc/passwd", "https://ada:secret@example.com/", "https://a b/")
    ),
    of_spec(
        ENDPOINT,
        "a certificate's Secret is named as Secrets are",
        {"tls": {"secretName": "churn.tls"}},
        {"tls": {"secretName": "a/b"}},
        "spec.tls.secretName: ",
        OBJECT,
    ),
]
