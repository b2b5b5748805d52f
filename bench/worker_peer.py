"""RunPod's own worker as the peer of `npm run bench -- worker`: its handler returns the input."""
import runpod

runpod.serverless.start({"handler": lambda job: job["input"]})
