"""diffusers as the peer of `npm run bench -- memory`: loads the folder in float32, runs one guided step, decodes one chunk of each length.

usage: memory_peer.py FOLDER H W T threads decoding_t…
"""
import os
import sys

import torch
from diffusers import StableVideoDiffusionPipeline

folder, (H, W, T, threads, *chunks) = sys.argv[1], map(int, sys.argv[2:])
torch.set_grad_enabled(False)
torch.set_num_threads(threads)
half = os.path.exists(os.path.join(folder, "unet/diffusion_pytorch_model.fp16.safetensors"))
pipe = StableVideoDiffusionPipeline.from_pretrained(folder, variant="fp16" if half else None, torch_dtype=torch.float32)
print("done", flush=True)
pipe.image_encoder(torch.zeros(1, 3, 224, 224))
pipe.vae.encode(torch.zeros(1, 3, H, W)).latent_dist.mode()
# as its pipeline does: both branches of guidance in one batch
sample, context = torch.randn(2, T, 8, H // 8, W // 8), torch.randn(2, 1, pipe.unet.config.cross_attention_dim)
pipe.unet(sample, torch.tensor(1.6), context, torch.tensor([[5.0, 127.0, 0.02]] * 2))
print("done", flush=True)
for chunk in chunks:
    pipe.vae.decode(torch.randn(min(chunk, T), 4, H // 8, W // 8), num_frames=min(chunk, T))
    print("done", flush=True)
