"""Adds to handler/models/testdata what Stability's own samplers, discretizations and guiders give over the small SVD's networks.

    git clone https://github.com/Stability-AI/generative-models SGM
    pip install torch diffusers transformers accelerate safetensors pillow omegaconf einops scipy fsspec
    python test/reference/make_sampler_fixtures.py handler/models/testdata SGM
"""
import json
import os
import sys
import types

import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

out, checkout = sys.argv[1:]
torch.set_grad_enabled(False)

# The packages' own __init__ files load training code, which is not needed: only their folders are made known.
for name in ("sgm", "sgm.modules", "sgm.modules.diffusionmodules"):
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(checkout, *name.split("."))]
    sys.modules[name] = package
from sgm.modules.diffusionmodules import denoiser_scaling, sampling  # noqa: E402

MODULES = "sgm.modules.diffusionmodules"
pipe = StableVideoDiffusionPipeline.from_pretrained(os.path.join(out, "small-svd"), variant="fp16", torch_dtype=torch.float32)
picture = load_file(os.path.join(out, "reference.safetensors"))["pipeline 3/picture"]
H, W, T, steps, seed, fps, bucket, cond_aug = 64, 64, 3, 5, 11, 6, 127, 0.02

EDM = dict(target=f"{MODULES}.discretizer.EDMDiscretization", params=dict(sigma_min=0.002, sigma_max=700.0, rho=7.0))
LEGACY = dict(target=f"{MODULES}.discretizer.LegacyDDPMDiscretization")
LINEAR = dict(target=f"{MODULES}.guiders.LinearPredictionGuider", params=dict(max_scale=2.5, min_scale=1.0, num_frames=T))
VANILLA = dict(target=f"{MODULES}.guiders.VanillaCFG", params=dict(scale=3.0))
IDENTITY = dict(target=f"{MODULES}.guiders.IdentityGuider")
churn = dict(s_churn=2.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
cases = [
    ("EulerEDMSampler", churn, EDM, LINEAR),
    ("HeunEDMSampler", churn, EDM, LINEAR),
    ("EulerAncestralSampler", dict(eta=0.7, s_noise=0.9), LEGACY, LINEAR),
    ("DPMPP2SAncestralSampler", dict(eta=1.0, s_noise=1.0), LEGACY, VANILLA),
    ("DPMPP2MSampler", {}, EDM, VANILLA),
    ("LinearMultistepSampler", dict(order=4), LEGACY, IDENTITY),
]

scaling = denoiser_scaling.VScalingWithEDMcNoise()


def denoise(x, sigma, c):
    """sgm's Denoiser over diffusers' UNet: one run for each branch in the batch."""
    spread = sigma.reshape(-1, 1, 1, 1)
    c_skip, c_out, c_in, c_noise = scaling(spread)
    v = []
    for i in range(0, len(x), T):
        part = slice(i, i + T)
        sample = torch.cat([x[part] * c_in[part], c["concat"][part]], 1)[None]
        v.append(pipe.unet(sample, c_noise[i].reshape(()), c["crossattn"][i : i + 1], c["vector"][i : i + 1]).sample[0])
    return torch.cat(v) * c_out + x * c_skip


reference, described = {}, []
for index, (name, parameters, discretization, guider) in enumerate(cases):
    g = torch.Generator("cpu").manual_seed(seed)
    sampling.torch.randn_like = lambda x, **_: torch.randn(x.shape, generator=g)
    image = Image.fromarray(picture.byte().numpy())
    embedding = pipe._encode_image(image, "cpu", 1, False)
    pixels = picture.permute(2, 0, 1)[None] / 255 * 2 - 1
    pixels = pixels + cond_aug * torch.randn(pixels.shape, generator=g)
    latent = pipe.vae.encode(pixels).latent_dist.mode()
    ids = torch.tensor([[fps - 1.0, bucket, cond_aug]])
    c = dict(crossattn=embedding.repeat(T, 1, 1), concat=latent.repeat(T, 1, 1, 1), vector=ids.repeat(T, 1))
    uc = dict(c, crossattn=torch.zeros_like(c["crossattn"]), concat=torch.zeros_like(c["concat"]))
    noise = torch.randn(T, 4, H // 8, W // 8, generator=g)
    sampler = getattr(sampling, name)(
        discretization_config=discretization, num_steps=steps, guider_config=guider, device="cpu", verbose=False, **parameters)
    reference[f"{index}"] = sampler(denoise, noise, cond=c, uc=uc).float().contiguous()
    described.append(dict(sampler=name, parameters=parameters, discretization=discretization["target"].split(".")[-1],
                          guider=guider["target"].split(".")[-1]))

save_file(reference, os.path.join(out, "samplers.safetensors"))
with open(os.path.join(out, "samplers.json"), "w") as f:
    shared = dict(H=H, W=W, T=T, steps=steps, seed=seed, fps=fps, motion_bucket_id=bucket, cond_aug=cond_aug)
    json.dump(dict(shared=shared, cases=described), f, indent=1)
    f.write("\n")
