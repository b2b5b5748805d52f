"""diffusers as the peer of `npm run bench -- svd`, `-- fast` and `-- memory`: loads from a folder, in float32, what each line of input names, and
runs it once.

usage: diffusers_peer.py FOLDER, then JSON lines {"run": …, "H", "W", "T", "threads", "steps", "sigmas", "guidance", "cache"}.
`run` is one of
  clip, encoder, unet, decoder: that network alone
  whole: a clip by the whole pipeline
  load, step, decode: the whole pipeline loaded; CLIP, encoder and one guided step of it; T frames decoded
  sgemm: a product of two square matrices
"""
import json
import os
import sys
import time
from contextlib import contextmanager

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image
from transformers import CLIPVisionModelWithProjection

torch.set_grad_enabled(False)
folder = sys.argv[1]
half = os.path.exists(os.path.join(folder, "unet/diffusion_pytorch_model.fp16.safetensors"))
options = {"variant": "fp16" if half else None, "torch_dtype": torch.float32}
loaders = {
    "clip": lambda: CLIPVisionModelWithProjection.from_pretrained(folder, subfolder="image_encoder", **options),
    "unet": lambda: UNetSpatioTemporalConditionModel.from_pretrained(folder, subfolder="unet", **options),
    "vae": lambda: AutoencoderKLTemporalDecoder.from_pretrained(folder, subfolder="vae", **options),
    "whole": lambda: StableVideoDiffusionPipeline.from_pretrained(folder, **options),
    "sgemm": lambda: torch.rand(2048, 2048),
}
PARTS = {"encoder": "vae", "decoder": "vae", "load": "whole", "step": "whole", "decode": "whole"}
loaded, model = None, None


def load(part):
    """One at a time, so that the machine's memory suffices for our process too."""
    global loaded, model
    if part != loaded:
        model = None
        loaded, model = part, loaders[part]()
        if part == "whole":
            model.set_progress_bar_config(disable=True)
    return model


def denoise(unet, B, T, H, W):
    context = torch.zeros(B, 1, unet.config.cross_attention_dim)
    unet(torch.zeros(B, T, 8, H // 8, W // 8), torch.tensor(1.6), context, torch.tensor([[5.0, 127.0, 0.02]] * B))


@contextmanager
def cached_features(pipeline, cache):
    if not cache or cache["interval"] == 1:
        yield
        return
    helper = DeepCacheSDHelper(pipe=pipeline)
    helper.set_params(cache_interval=cache["interval"], cache_branch_id=cache["depth"] - 1)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


def work(it, run, H, W, T, steps, sigmas, guidance, cache):
    if run == "clip":
        it(torch.zeros(1, 3, 224, 224))
    elif run == "encoder":
        it.encode(torch.zeros(1, 3, H, W)).latent_dist.mode()
    elif run == "unet":
        denoise(it, 1, T, H, W)
    elif run == "decoder":
        it.decode(torch.zeros(T, 4, H // 8, W // 8), num_frames=T)
    elif run == "whole":
        with cached_features(it, cache):
            it(Image.new("RGB", (W, H), (90, 120, 150)), height=H, width=W, num_frames=T, num_inference_steps=steps, sigmas=sigmas, fps=6,
               max_guidance_scale=guidance, decode_chunk_size=T, generator=torch.Generator("cpu").manual_seed(1), output_type="pt")
    elif run == "step":
        it.image_encoder(torch.zeros(1, 3, 224, 224))
        it.vae.encode(torch.zeros(1, 3, H, W)).latent_dist.mode()
        denoise(it.unet, 2, T, H, W)  # as its pipeline does: both branches of guidance in one batch
    elif run == "decode":
        it.vae.decode(torch.randn(T, 4, H // 8, W // 8), num_frames=T)
    elif run == "sgemm":
        torch.mm(it, it)


for line in sys.stdin:
    task = json.loads(line)
    run = task["run"]
    torch.set_num_threads(task["threads"])
    it = load(PARTS.get(run, run))
    start = time.perf_counter()
    options = [task.get("steps"), task.get("sigmas"), task.get("guidance", 3.0), task.get("cache")]
    work(it, run, task["H"], task["W"], task["T"], *options)
    print(json.dumps({"ms": (time.perf_counter() - start) * 1000}), flush=True)
