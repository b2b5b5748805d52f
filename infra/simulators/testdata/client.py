"""
RunPod's own clients, blocking and asyncio, at the endpoint "ep" of RUNPOD_ENDPOINT_BASE_URL. What they say is printed as JSON.
A job whose input is {"hold": true} runs until it is cancelled; the worker takes one job at a time.
"""
import asyncio
import json
import os
import time

import aiohttp
import requests
import runpod

ECHO = {"echo": "héllo"}
runpod.api_key = os.environ["KEY"]
endpoint = runpod.Endpoint("ep")
results = {}


def reason(call):
    try:
        return call()
    except requests.HTTPError as error:
        return error.response.status_code
    except RuntimeError as error:
        return str(error)


def wait_until(expected, read):
    while read() != expected:
        time.sleep(0.05)
    return expected


def blocking():
    results["run_sync"] = endpoint.run_sync({"input": ECHO})
    results["run_sync failed"] = endpoint.run_sync({"input": {"fail": "boom"}})

    job = endpoint.run({"input": ECHO})
    results["output"] = [job.output(timeout=30), job.status()]
    results["output later"] = job.output()
    failed = endpoint.run({"input": {"fail": "boom"}})
    results["failed"] = [failed.output(timeout=30), failed.status()]
    results["stream"] = list(endpoint.run({"input": {"chunks": [1, {"b": 2}, None]}}).stream())

    held = endpoint.run({"input": {"hold": True}})
    results["running"] = wait_until("IN_PROGRESS", held.status)
    results["progress"] = wait_until({"step": 1}, held.output)
    queued = [endpoint.run({"input": ECHO}) for _ in range(3)]
    results["queued"] = queued[0].status()
    results["health"] = endpoint.health()
    results["cancel queued"] = queued[0].cancel() == {"id": queued[0].job_id, "status": "CANCELLED"}
    results["purge"] = endpoint.purge_queue()
    results["purged"] = [job.status() for job in queued]
    results["cancel"] = held.cancel() == {"id": held.job_id, "status": "CANCELLED"}
    results["cancelled"] = held.status()

    results["unknown job"] = reason(runpod.endpoint.Job("ep", "unknown", endpoint.rp_client).status)
    results["wrong key"] = reason(runpod.Endpoint("ep", api_key="wrong").health)


async def concurrent():
    async with aiohttp.ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("ep", session)
        echo, failed, streamed = [
            await endpoint.run(job_input) for job_input in (ECHO, {"fail": "boom"}, {"chunks": [1, {"b": 2}, None]})
        ]
        results["async output"] = [await echo.output(timeout=30), await echo.status()]
        results["async failed"] = [await failed.output(timeout=30), await failed.status()]
        results["async stream"] = [chunk async for chunk in streamed.stream()]
        held = await endpoint.run({"hold": True})
        while await held.status() != "IN_PROGRESS":
            await asyncio.sleep(0.05)
        queued = await endpoint.run(ECHO)
        results["async health"] = await endpoint.health()
        results["async purge"] = await endpoint.purge_queue()
        results["async purged"] = await queued.status()
        results["async cancel"] = await held.cancel() == {"id": held.job_id, "status": "CANCELLED"}
        results["async cancelled"] = await held.status()


blocking()
asyncio.run(concurrent())
print(json.dumps(results))
