"""Makes handler/models/testdata: a small random-weight Stable Video Diffusion in the official folder layout (half precision), and what
diffusers computes with it in float32: each network, and whole pipelines.

    pip install torch diffusers transformers accelerate safetensors pillow
    python test/reference/make_fixtures.py handler/models/testdata

Every block has at least 64 channels: with 32, each of the 32 groups of a norm is one channel, and the time embedding would vanish in it.
"""
import json
import math
import os
import sys

import numpy as np
import torch
from diffusers import (AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline,
                       UNetSpatioTemporalConditionModel)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(1234)
torch.set_grad_enabled(False)

unet = UNetSpatioTemporalConditionModel(
    sample_size=96, in_channels=8, out_channels=4, block_out_channels=(64, 64, 64, 64), num_attention_heads=(2, 2, 4, 4),
    addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, layers_per_block=(2, 1, 1, 1),
    cross_attention_dim=64, num_frames=5).eval()
vae = AutoencoderKLTemporalDecoder(
    in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(64, 64, 64, 64),
    layers_per_block=2, latent_channels=4, sample_size=96, scaling_factor=0.18215, force_upcast=True).eval()
clip = CLIPVisionModelWithProjection(CLIPVisionConfig(
    hidden_size=64, intermediate_size=160, projection_dim=64, num_hidden_layers=2, num_attention_heads=4,
    image_size=224, patch_size=32, hidden_act="gelu", layer_norm_eps=1e-5)).eval()
scheduler = EulerDiscreteScheduler(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="v_prediction", interpolation_type="linear", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
    timestep_spacing="leading", timestep_type="continuous", steps_offset=1)
extractor = CLIPImageProcessor(
    crop_size={"height": 224, "width": 224}, do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True,
    do_resize=True, image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
    resample=3, rescale_factor=1 / 255, size={"shortest_edge": 224})


def scramble(model):
    """Nothing stays at 0 or 1, so that every weight counts; all values are exact in half precision."""
    for name, p in model.named_parameters():
        if name.endswith("mix_factor"):
            value = torch.randn_like(p)
        elif p.ndim <= 1:
            value = (1.0 if name.endswith("weight") else 0.0) + 0.15 * torch.randn_like(p)
        elif "embedding" in name and p.ndim == 2 and "linear" not in name:
            value = 0.3 * torch.randn_like(p)
        else:
            value = torch.randn_like(p) / math.sqrt(p[0].numel())
        p.copy_(value.half().float())


for model in (unet, vae, clip):
    scramble(model)
pipe = StableVideoDiffusionPipeline(vae=vae, image_encoder=clip, unet=unet, scheduler=scheduler, feature_extractor=extractor)
pipe.to(torch.float16).save_pretrained(os.path.join(out, "small-svd"), variant="fp16")
pipe.to(torch.float32)
pipe.set_progress_bar_config(disable=True)

reference = {}


def keep(case, **tensors):
    reference.update({f"{case}/{name}": tensor.detach().contiguous().float() for name, tensor in tensors.items()})


# Each network alone; odd latent sizes are upsampled to the size of what they join.
for T, h, w, B in ((5, 8, 16, 1), (3, 9, 13, 1), (1, 8, 8, 1), (2, 8, 8, 2)):
    sample, context = torch.randn(B, T, 8, h, w), torch.randn(B, 1, 64)
    ids, timestep = torch.tensor([[6.0, 127.0, 0.02]]).repeat(B, 1), torch.tensor(1.6377)
    v = unet(sample, timestep, context, ids).sample
    keep(f"unet {B}x{T}x{h}x{w}", sample=sample, context=context, ids=ids, timestep=timestep[None], v=v)
for H, W in ((64, 96), (72, 40)):
    picture = torch.randn(1, 3, H, W).clamp(-1, 1)
    keep(f"encoder {H}x{W}", picture=picture, latent=vae.encode(picture).latent_dist.mode())
for T, h, w in ((3, 8, 12), (1, 8, 8), (2, 6, 5)):
    latents = torch.randn(T, 4, h, w)
    keep(f"decoder {T}x{h}x{w}", latents=latents, frames=vae.decode(latents, num_frames=T).sample)
pixels = torch.randn(1, 3, 224, 224)
keep("clip", pixels=pixels, embedding=clip(pixels).image_embeds)

# Whole pipelines. With one frame diffusers fails where the guidance begins at 1, so that case begins above.
cases = [
    dict(H=64, W=96, T=5, steps=4, fps=7, motion_bucket_id=127, cond_aug=0.02, guidance=[1.0, 3.0], decoding_t=3, seed=42),
    dict(H=128, W=64, T=3, steps=3, fps=12, motion_bucket_id=40, cond_aug=0.1, guidance=[1.5, 2.0], decoding_t=2, seed=7),
    dict(H=64, W=64, T=1, steps=2, fps=6, motion_bucket_id=200, cond_aug=0.02, guidance=[1.5, 3.0], decoding_t=1, seed=23),
    dict(H=64, W=64, T=2, steps=5, fps=30, motion_bucket_id=255, cond_aug=0.0, guidance=[1.0, 1.0], decoding_t=2, seed=1000000000),
]
for i, case in enumerate(cases):
    y, x = np.mgrid[0:case["H"], 0:case["W"]]
    planes = [127 + 120 * np.sin(x / 9 + y / 17), 127 + 120 * np.cos(y / 7), (x * 2.5 + y) % 256]
    image = Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))
    arguments = dict(
        height=case["H"], width=case["W"], num_frames=case["T"], num_inference_steps=case["steps"], fps=case["fps"],
        motion_bucket_id=case["motion_bucket_id"], noise_aug_strength=case["cond_aug"],
        min_guidance_scale=case["guidance"][0], max_guidance_scale=case["guidance"][1], decode_chunk_size=case["decoding_t"])
    run = lambda kind: pipe(image, generator=torch.Generator("cpu").manual_seed(case["seed"]), output_type=kind, **arguments).frames
    keep(f"pipeline {i}", picture=torch.from_numpy(np.asarray(image).copy()), latents=run("latent"), frames=run("pt"))

save_file(reference, os.path.join(out, "reference.safetensors"))
with open(os.path.join(out, "pipelines.json"), "w") as f:
    json.dump({"torch": torch.__version__, "cases": cases}, f, indent=1)
    f.write("\n")
