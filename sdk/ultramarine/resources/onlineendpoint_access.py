"""What the spec of an OnlineEndpoint says of tokens and of TLS, both of which are the gateway's work."""

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
        json_schema_extra=says("must be http:// or https:// with a host name, without spaces and without a user"),
    ),
]
# Parameters of a JSON Web Key that are no public ones (RFC 7518, 6.2.2, 6.3.2 and 6.4.1).
PRIVATE = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})


KEY_SET = r"""^\s*\{(?s:.*)"keys"\s*:\s*\[\s*\{(?s:.*)\}\s*\](?s:.*)\}\s*$"""  # as far as an expression can tell
NO_KEY_SET = 'must be a whole JSON Web Key Set, such as {"keys": [{"kty": "RSA", ...}]}'


class Token(Schema):
    """Whose JWTs open the endpoint, for whom they have to be, and the keys with which they are checked."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.jwks) != has(self.jwksUri)", "give one of jwks and jwksUri"))
    )

    issuer: str = Field(min_length=1, max_length=512, description="Who makes the tokens, as in their claim iss.")
    audiences: list[Audience] = Field(
        min_length=1, max_length=16, description="For whom a token has to be: one of these is in its claim aud."
    )
    jwks: str | None = Field(
        default=None,
        min_length=2,
        max_length=32768,
        description="The issuer's public keys, a JSON Web Key Set as JSON.",
        json_schema_extra=rules(rule(f"self.matches(r'{KEY_SET}')", NO_KEY_SET)),
    )
    jwks_uri: KeySetUri | None = Field(
        default=None,
        description="Where the gateway fetches that set; again every five minutes. An address of a "
        "private network, as those of the cluster are, has to be one of the chart's gateway.issuers.",
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
            raise ValueError("must have public keys only: whoever has a private one can make tokens")
        return text


class Tls(Schema):
    """The certificate that the endpoint shows."""

    secret_name: str = Field(
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        json_schema_extra=SAYS_NAME,
        description="A Secret of type kubernetes.io/tls in the same namespace, such as cert-manager makes. A renewed "
        "certificate is taken up within some seconds, and no connection is ended for that.",
    )
