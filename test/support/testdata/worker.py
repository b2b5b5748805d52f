"""
worker.ts in Python with RunPod's own package, for the conformance tests. A job's input says what it does.
GATE is the URL where a job waits until the test opens it. WORKER_OPTIONS has the worker's options.
"""
import json
import os
import signal
import threading
import urllib.request


def exit_with_tests():
    os.read(0, 1)  # returns when they have ended
    os.killpg(0, signal.SIGKILL)


threading.Thread(target=exit_with_tests, daemon=True).start()  # first: RunPod's package takes seconds to load

import aiohttp
import runpod

options = json.loads(os.environ.get("WORKER_OPTIONS", "{}"))
concurrency = options.get("concurrency", 1)


def gate_url(name):
    return f"{os.environ['GATE']}/{name}"


async def pass_gate(name):
    async with aiohttp.ClientSession() as session, session.get(gate_url(name)) as response:
        await response.read()


async def handle(job):
    global concurrency
    job_input = job["input"]
    do = job_input["do"]
    if do == "return":
        return job_input["value"]
    if do == "throw":
        raise ValueError(job_input["message"])
    if do in ("wait", "wait without signal"):
        await pass_gate(job_input["gate"])
        return "waited"
    if do == "block":
        urllib.request.urlopen(gate_url(job_input["gate"])).read()
        return "blocked"
    if do == "report":
        for value in job_input["values"]:
            runpod.serverless.progress_update(job, value)
        if "gate" in job_input:
            await pass_gate(job_input["gate"])
        return "reported"
    if do == "return NaN":
        return {"value": float("nan")}
    if do == "return what JSON cannot express":
        return {"value": {1}}
    if do == "return much":
        return "x" * job_input["bytes"]
    if do == "set concurrency":
        concurrency = job_input["value"]
        return concurrency
    raise ValueError(do)


async def generate(job):
    job_input = job["input"]
    for chunk in job_input["chunks"]:
        yield chunk
    if "bytes" in job_input:
        yield "x" * job_input["bytes"]
    if "throw" in job_input:
        raise ValueError(job_input["throw"])


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
