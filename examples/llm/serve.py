"""Serve a GGUF model by the OpenAI API on the CPU, with llama.cpp: `python3 serve.py [MODEL.gguf]`."""

import os
import signal
import sys
from pathlib import Path

import xllamacpp

# Without an argument the model of the deployment, otherwise the one in the image.
models = [*map(Path, sys.argv[1:]), *sorted(Path("/mnt/model").rglob("*.gguf")), Path(os.environ.get("MODEL", ""))]

parameters = xllamacpp.CommonParams()
parameters.model.path = str(models[0])
parameters.model_alias = {models[0].stem}
parameters.hostnames, parameters.port = ["0.0.0.0"], int(os.environ.get("PORT", "8080"))
parameters.n_ctx, parameters.n_parallel = 4096, 4  # tokens of all requests together, and requests at once
parameters.cpuparams.n_threads = int(os.environ.get("THREADS", "1"))
parameters.warmup = False

server = xllamacpp.Server(parameters)
print(f"{models[0]} answers at {server.listening_address}", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
