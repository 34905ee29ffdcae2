"""Inputs that are read over http while the command runs, with a real object storage behind."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from ultramarine_contract.storage import Storage
from ultramarine_trainer.data.inputs import StreamServer


@pytest.fixture
def url(storage: Storage, bucket: str) -> Iterator[str]:
    """A server of two inputs: a folder with odd names, and one file."""
    for name, data in (("a.csv", b"x,y\n1,2\n"), ("b/ü c.bin", bytes(range(256)) * 5000), ("empty", b"")):
        storage.write(f"s3://{bucket}/lake/{name}", data)
    inputs = {"lake": storage.objects(f"s3://{bucket}/lake/"), "one": storage.objects(f"s3://{bucket}/lake/a.csv")}
    server = StreamServer(storage, inputs, port=0)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """The answer to one request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=240) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_files_are_read_whole_and_in_parts(url):
    """Whole, by range from either end, and by HEAD."""
    assert get(f"{url}/lake/a.csv")[:2] == (200, b"x,y\n1,2\n")
    assert get(f"{url}/one/a.csv")[:2] == (200, b"x,y\n1,2\n")
    assert get(f"{url}/lake/empty")[:2] == (200, b"")
    assert get(f"{url}/lake//a.csv")[:2] == (200, b"x,y\n1,2\n"), "$(inputs.lake) ends in a slash"
    code, body, headers = get(f"{url}/lake/b/%C3%BC%20c.bin", Range="bytes=256-511")
    assert (code, body, headers["Content-Range"]) == (206, bytes(range(256)), "bytes 256-511/1280000")
    assert get(f"{url}/lake/b/%C3%BC%20c.bin", Range="bytes=-2")[:2] == (206, b"\xfe\xff")
    code, body, headers = get(f"{url}/lake/b/%C3%BC%20c.bin", "HEAD")
    assert (code, body, headers["Content-Length"]) == (200, b"", "1280000")


def test_a_folder_is_a_page_of_links(url):
    """As fsspec and people read it; each link leads to its file."""
    code, page, _ = get(f"{url}/lake/")
    assert code == 200
    assert b'<a href="b/%C3%BC%20c.bin">' in page


def test_nothing_else_is_served(url):
    """No other object of the bucket, no way upwards, no range beyond the end."""
    assert get(f"{url}/lake/../secret")[0] == 404
    assert get(f"{url}/lake/%2e%2e/a.csv")[0] == 404
    assert get(f"{url}/one//%2e%2e//lake//a.csv")[0] == 404
    assert get(f"{url}/")[0] == 404
    assert get(f"{url}/lake/a.csv", Range="bytes=100-200")[0] == 416


def test_an_object_that_goes_away_is_an_error_and_not_an_end(url, storage, bucket):
    """What was there at the start and is not any more is told as such."""
    storage.delete_artifact(f"s3://{bucket}/lake/")
    code, said, _ = get(f"{url}/lake/a.csv")
    assert code == 502
    assert b"does not exist" in said
