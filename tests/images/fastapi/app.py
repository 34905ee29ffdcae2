"""App that converts temperatures, with a schema of its requests and a stream."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI()


class Temperature(BaseModel):
    """Request of one value."""

    celsius: float


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/api/convert")
def convert(temperature: Temperature) -> dict[str, float]:
    """Return the temperature in Fahrenheit."""
    return {"fahrenheit": temperature.celsius * 9 / 5 + 32}


@app.get("/api/table")
def table() -> StreamingResponse:
    """Stream a line for each of three temperatures."""

    def lines() -> Iterator[str]:
        for celsius in (0, 10, 20):
            yield f"{celsius} {convert(Temperature(celsius=celsius))['fahrenheit']:g}\n"

    return StreamingResponse(lines(), media_type="text/plain")
