"""
worker.ts in Python, on RunPod's own package: for the conformance tests. What a job does is said in its input.
GATE is an address where a job waits until the test lets it go on; WORKER_OPTIONS says what kind of worker this is.
"""
import json
import os
import signal
import threading
import urllib.request


def end_with_the_tests():
    os.read(0, 1)  # returns when they are gone
    os.killpg(0, signal.SIGKILL)


threading.Thread(target=end_with_the_tests, daemon=True).start()  # first: RunPod's package takes seconds to load

import aiohttp
import runpod

options = json.loads(os.environ.get("WORKER_OPTIONS", "{}"))
concurrency = options.get("concurrency", 1)


def address(name):
    return f"{os.environ['GATE']}/{name}"


async def pass_gate(name):
    async with aiohttp.ClientSession() as session, session.get(address(name)) as response:
        await response.read()


async def handle(job):
    global concurrency
    given = job["input"]
    do = given["do"]
    if do == "return":
        return given["value"]
    if do == "throw":
        raise ValueError(given["message"])
    if do in ("wait", "wait deafly"):
        await pass_gate(given["gate"])
        return "waited"
    if do == "block":
        urllib.request.urlopen(address(given["gate"])).read()
        return "blocked"
    if do == "report":
        for value in given["values"]:
            runpod.serverless.progress_update(job, value)
        if "gate" in given:
            await pass_gate(given["gate"])
        return "reported"
    if do == "return NaN":
        return {"value": float("nan")}
    if do == "return what JSON has no word for":
        return {"value": {1}}
    if do == "return much":
        return "x" * given["bytes"]
    if do == "set concurrency":
        concurrency = given["value"]
        return concurrency
    raise ValueError(do)


async def generate(job):
    given = job["input"]
    for chunk in given["chunks"]:
        yield chunk
    if "bytes" in given:
        yield "x" * given["bytes"]
    if "throw" in given:
        raise ValueError(given["throw"])


if "unfit" in options:

    @runpod.serverless.register_fitness_check
    def weights():
        raise RuntimeError(options["unfit"])


runpod.serverless.start(
    {
        "handler": generate if options.get("generator") else handle,
        "concurrency_modifier": lambda current: concurrency,
        "refresh_worker": options.get("refreshWorker", False),
        "return_aggregate_stream": options.get("aggregateStream", False),
    }
)
