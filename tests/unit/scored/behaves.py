"""Scoring script that does what its request says, with well-behaved and with bad answers."""

import importlib.util
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import beside

state = {"runs": 0}


def init():
    global folder
    folder = Path(os.environ["AZUREML_MODEL_DIR"])
    os.chdir("/tmp")
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    logging.info("init is complete")
    print("beside:", beside.WORD)


def run(data):
    state["runs"] += 1
    asked = json.loads(data)
    return globals()[asked["do"]](asked.get("value"))


def echo(value):
    return value


def nothing(value):
    return None


def count(value):
    return state


def files(value):
    return sorted(os.listdir(folder / (value or "")))


def read(value):
    return (folder / value).read_text()


def packages(value):
    return [name for name in ("numpy", "msgspec", "orjson", "ultramarine_contract") if importlib.util.find_spec(name)]


def nan(value):
    return [float("nan")]


def a_set(value):
    return {1, 2}


def generator(value):
    return (number for number in range(3))


def an_object(value):
    return object()


def some_bytes(value):
    return b"text"


def huge(value):
    return "x" * (65 * 1024 * 1024)


def refuse(value):
    raise ValueError("age must not be negative")


def fail(value):
    raise KeyError("no such model")


def leave(value):
    sys.exit(3)


def crash(value):
    os._exit(7)


def abort(value):
    os.abort()


def hang(value):
    time.sleep(3600)


def meet(value):
    Path(value, str(os.getpid())).touch()
    while len(os.listdir(value)) < 2:
        time.sleep(0.01)
    return len(os.listdir(value))


def stdin(value):
    return sys.stdin.read()


def flood(value):
    for _ in range(20000):
        print("x" * 80)
    return "printed"
