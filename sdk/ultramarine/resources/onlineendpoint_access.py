"""Authentication by token and TLS of an OnlineEndpoint, both of which the gateway performs."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator
from ultramarine_contract.routes import KEY_SET_URI

from .base import SAYS_NAME, SUBDOMAIN, Schema, rule, rules, says

Audience = Annotated[str, Field(min_length=1, max_length=256)]
KeySetUri = Annotated[
    str,
    Field(
        pattern=f"^{KEY_SET_URI}$",
        max_length=1024,
        json_schema_extra=says("must be http:// or https:// and a host name, with no spaces and no user"),
    ),
]
# Private parameters of a JSON Web Key (RFC 7518, 6.2.2, 6.3.2 and 6.4.1).
PRIVATE = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})


KEY_SET = r"""^\s*\{(?s:.*)"keys"\s*:\s*\[\s*\{(?s:.*)\}\s*\](?s:.*)\}\s*$"""  # as far as an expression can check
NO_KEY_SET = 'must be a complete JSON Web Key Set, such as {"keys": [{"kty": "RSA", ...}]}'


class Token(Schema):
    """Issuer, audiences and public keys of accepted JWTs."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.jwks) != has(self.jwksUri)", "give one of jwks and jwksUri"))
    )

    issuer: str = Field(min_length=1, max_length=512, description="Issuer of the tokens: the claim iss.")
    audiences: list[Audience] = Field(
        min_length=1, max_length=16, description="Accepted audiences; a token's claim aud must have one of them."
    )
    jwks: str | None = Field(
        default=None,
        min_length=2,
        max_length=32768,
        description="Public keys of the issuer, a JSON Web Key Set as JSON.",
        json_schema_extra=rules(rule(f"self.matches(r'{KEY_SET}')", NO_KEY_SET)),
    )
    jwks_uri: KeySetUri | None = Field(
        default=None,
        description="URL of the key set, which the gateway fetches every five minutes. An address in a private "
        "network, such as the cluster's, must be listed in the chart's gateway.issuers.",
    )

    @field_validator("jwks")
    @classmethod
    def _has_public_keys(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            document = json.loads(text)
            keys = document["keys"] if isinstance(document, dict) else None
        except (ValueError, RecursionError, KeyError):
            keys = None
        if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
            raise ValueError(NO_KEY_SET)
        if any(PRIVATE & key.keys() for key in keys):
            raise ValueError("must have public keys only; remove private keys, with which anyone can make tokens")
        return text


class Tls(Schema):
    """Certificate of an endpoint."""

    secret_name: str = Field(
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        json_schema_extra=SAYS_NAME,
        description="Secret of type kubernetes.io/tls in the same namespace, such as cert-manager creates. A renewed"
        " certificate takes effect within seconds, without closing a connection.",
    )
