"""RunPod's own worker as the peer of `npm run bench -- worker`: its handler returns the input."""
import os

import runpod

concurrency = int(os.environ["CONCURRENCY"])
runpod.serverless.start({"handler": lambda job: job["input"], "concurrency_modifier": lambda _: concurrency})
