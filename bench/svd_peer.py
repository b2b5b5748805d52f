"""diffusers as the peer of `npm run bench -- svd`: loads from a folder, in float32, what each line of input names, and runs it once.

usage: svd_peer.py FOLDER, then JSON lines {"run": "clip" | "encoder" | "unet" | "decoder" | "whole" | "sgemm", "H", "W", "T", "steps", "threads"}
"""
import json
import os
import sys
import time

import torch
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
loaded, model = None, None


def load(part):
    """One at a time, so that the machine's memory suffices for ours beside it."""
    global loaded, model
    if part != loaded:
        model = None
        loaded, model = part, loaders[part]()
        if part == "whole":
            model.set_progress_bar_config(disable=True)
    return model


for line in sys.stdin:
    task = json.loads(line)
    run, H, W, T = task["run"], task["H"], task["W"], task["T"]
    torch.set_num_threads(task["threads"])
    it = load({"encoder": "vae", "decoder": "vae"}.get(run, run))
    if run == "clip":
        pixels = torch.zeros(1, 3, 224, 224)
        work = lambda: it(pixels)
    elif run == "encoder":
        picture = torch.zeros(1, 3, H, W)
        work = lambda: it.encode(picture).latent_dist.mode()
    elif run == "unet":
        ids, context = torch.tensor([[5.0, 127.0, 0.02]]), torch.zeros(1, 1, it.config.cross_attention_dim)
        sample = torch.zeros(1, T, 8, H // 8, W // 8)
        work = lambda: it(sample, torch.tensor(1.6), context, ids)
    elif run == "decoder":
        latents = torch.zeros(T, 4, H // 8, W // 8)
        work = lambda: it.decode(latents, num_frames=T)
    elif run == "whole":
        picture = Image.new("RGB", (W, H), (90, 120, 150))
        work = lambda: it(picture, height=H, width=W, num_frames=T, num_inference_steps=task["steps"], fps=6, decode_chunk_size=T,
                          generator=torch.Generator("cpu").manual_seed(1), output_type="pt")
    else:
        work = lambda: torch.mm(it, it)
    start = time.perf_counter()
    work()
    print(json.dumps({"ms": (time.perf_counter() - start) * 1000}), flush=True)
