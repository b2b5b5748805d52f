"""diffusers as the peer of `npm run bench -- svd`: loads the same folder in float32, then runs what each line of input names.

usage: svd_peer.py FOLDER, then JSON lines {"run": "clip" | "encoder" | "unet" | "decoder" | "whole", "H", "W", "T", "steps", "threads"}
"""
import json
import os
import sys
import time

import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

torch.set_grad_enabled(False)
folder = sys.argv[1]
half = os.path.exists(os.path.join(folder, "unet/diffusion_pytorch_model.fp16.safetensors"))
pipe = StableVideoDiffusionPipeline.from_pretrained(folder, variant="fp16" if half else None, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    H, W, T = task["H"], task["W"], task["T"]
    torch.set_num_threads(task["threads"])
    context = pipe.unet.config.cross_attention_dim
    ids = torch.tensor([[5.0, 127.0, 0.02]])
    feeds = {
        "clip": lambda: (torch.zeros(1, 3, 224, 224),),
        "encoder": lambda: (torch.zeros(1, 3, H, W),),
        "unet": lambda: (torch.zeros(1, T, 8, H // 8, W // 8), torch.tensor(1.6), torch.zeros(1, 1, context), ids),
        "decoder": lambda: (torch.zeros(T, 4, H // 8, W // 8),),
        "whole": lambda: (Image.new("RGB", (W, H), (90, 120, 150)),),
    }[task["run"]]()
    work = {
        "clip": lambda x: pipe.image_encoder(x).image_embeds,
        "encoder": lambda x: pipe.vae.encode(x).latent_dist.mode(),
        "unet": lambda *x: pipe.unet(*x).sample,
        "decoder": lambda x: pipe.vae.decode(x, num_frames=T).sample,
        "whole": lambda x: pipe(x, height=H, width=W, num_frames=T, num_inference_steps=task["steps"], fps=6, decode_chunk_size=T,
                                generator=torch.Generator("cpu").manual_seed(1), output_type="pt").frames,
    }[task["run"]]
    start = time.perf_counter()
    work(*feeds)
    print(json.dumps({"ms": (time.perf_counter() - start) * 1000}), flush=True)
