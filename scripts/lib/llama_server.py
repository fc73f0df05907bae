"""llama.cpp's own HTTP server, from the wheel xllamacpp: llama_server.py MODEL PORT SLOTS.

It prints `listening <url>` when it answers; port 0 is any free one. It ends when its standard input
does, and so with the process that started it.
"""

import sys

import xllamacpp  # type: ignore[import-not-found, import-untyped, unused-ignore]

SLOT_CONTEXT = 1 << 15  # tokens
CACHE_MEBIBYTES = 8192  # llama.cpp's default, for prompts that no slot holds any more


def serve(model: str, port: int, slots: int) -> None:
    """Serve until the standard input ends."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel, params.n_ctx = slots, slots * SLOT_CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = CACHE_MEBIBYTES
    params.endpoint_metrics = params.use_jinja = True
    params.warmup = False
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
