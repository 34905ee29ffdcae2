"""From where key sets are fetched for Envoy, and from where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from gateway_rig import issuer
from ultramarine_gateway.keysets import KeySets

KEY_SET = '{"keys": []}'


async def fetched(sets: KeySets, uri: str, folder: Path) -> tuple[int, str]:
    """Return the status and the body of the answer to Envoy."""
    path = folder / "keysets.sock"
    await sets.start(path)
    try:
        async with (
            ClientSession(connector=UnixConnector(str(path))) as session,
            session.get("http://agent/", params={"uri": uri}) as answer,
        ):
            return answer.status, await answer.text()
    finally:
        await sets.stop()


@pytest.mark.parametrize("listed", ["LocalHost", "127.0.0.0/8", "127.0.0.1"])
async def test_what_an_administrator_has_listed_is_fetched(tmp_path: Path, listed: str) -> None:
    """By its name, by its network or by its address; by the end of its name as well."""
    KeySets([".corp.example"]).refuse_inside("id.corp.example", ["10.0.0.1"])
    async with issuer(KEY_SET) as (uri, _):
        assert await fetched(KeySets([listed]), uri, tmp_path) == (200, KEY_SET)


@pytest.mark.attack(
    "author/key-set",
    asset="internal services, a cloud's metadata",
    threat="`token.jwksUri` leads the gateway to an address of the inside",
    control="the gateway's agent fetches key sets, follows no redirection, and connects to no private "
    "address, of loopback or of a link, but to those of `gateway.issuers`",
)
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "169.254.169.254", "10.0.0.1"]
)
async def test_nothing_is_fetched_from_the_inside(tmp_path: Path, host: str) -> None:
    """Addresses of loopback, of links and of private networks are refused in words, however they are written."""
    sets = KeySets([".example.com", "10.1.0.0/16", "host"])
    async with issuer(KEY_SET) as (uri, asked):
        uri = uri.replace("localhost", host)
        status, why = await fetched(sets, uri, tmp_path)
    assert (status, asked) == (502, [])
    assert why.startswith(f"{host} does not have a public address (") or f"{host} - is not a canonical" in why
    assert sets.failures == {uri: why}


@pytest.mark.attack("author/key-set")
@pytest.mark.parametrize(
    "address",
    [
        *(
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:a9fe:a9fe::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "fec0::1",
            "ff02::1",
        ),
        *("224.0.0.1", "100.64.0.1", "fd00::1", "fe80::1%eth0", "::1", "::"),
    ],
)
def test_an_address_that_stands_for_one_of_the_inside_is_refused(address: str) -> None:
    """Whatever a name of the author's leads to; addresses of the internet are taken."""
    with pytest.raises(ValueError, match="does not have a public address"):
        KeySets().refuse_inside("id.example.com", ["93.184.216.34", address])
    KeySets().refuse_inside("id.example.com", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])


@pytest.mark.attack("author/key-set")
@pytest.mark.parametrize(
    ("text", "status", "why"),
    [
        ("none", 200, "Expecting value"),
        ("[" * 100_000, 200, ""),
        ('{"keys": 1}', 200, "it is not a JSON Web Key Set"),
        ("x" * 1_100_000, 200, "it has more than 1048576 bytes"),
        (KEY_SET, 302, "it answers 302"),
        (KEY_SET, 500, "it answers 500"),
    ],
)
async def test_what_is_no_key_set_is_told(tmp_path: Path, text: str, status: int, why: str) -> None:
    """Another document, one without end, a redirection, which is not followed: the words say which."""
    async with issuer(text, status) as (uri, asked):
        answered, message = await fetched(KeySets(["localhost"]), uri, tmp_path)
    assert (answered, set(asked)) == (502, {"/jwks"})
    assert why in message
