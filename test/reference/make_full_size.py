"""Makes a svd_xt of the real size (CLIP ViT-H, VAE, UNet of 1.5 B parameters) with random weights, in the official folder layout; for
measuring memory and time where the real weights can't be had. Tensors are written one by one, so little memory is needed.

    pip install torch diffusers transformers accelerate safetensors
    python test/reference/make_full_size.py FOLDER [fp16 | fp32]

4.5 GB in fp16, 9 GB in fp32.
"""
import json
import math
import os
import shutil
import struct
import sys

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

out, precision = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "fp16"
small = os.path.join(os.path.dirname(__file__), "../../handler/models/testdata/small-svd")
dtype, code, suffix = (np.float16, "F16", ".fp16") if precision == "fp16" else (np.float32, "F32", "")

with torch.device("meta"):
    unet = UNetSpatioTemporalConditionModel(sample_size=96)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        sample_size=768, force_upcast=True)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5))

shutil.copytree(small, out, dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if n.endswith(".safetensors")])
pool = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
starts = np.random.default_rng(1)


def values(name, shape):
    """Random, of the scale that keeps activations at about 1."""
    n = int(np.prod(shape))
    data = np.resize(pool[int(starts.integers(0, 1 << 21)):], n)
    if name.endswith("mix_factor"):
        return data * 0 + 0.3
    if len(shape) <= 1:
        return data * 0.05 + (1.0 if name.endswith("weight") else 0.0)
    return data / math.sqrt(np.prod(shape[1:]))


for folder, file, model in (("unet", "diffusion_pytorch_model", unet), ("vae", "diffusion_pytorch_model", vae),
                            ("image_encoder", "model", clip)):
    os.makedirs(os.path.join(out, folder), exist_ok=True)
    if folder == "image_encoder":
        model.config.save_pretrained(os.path.join(out, folder))
    else:
        model.save_config(os.path.join(out, folder))
    tensors = {name: tuple(t.shape) for name, t in sorted(model.state_dict().items()) if not name.endswith("position_ids")}
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, folder, f"{file}{suffix}.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            f.write(values(name, shape).astype(dtype).tobytes())
    print(folder, f"{offset / 1e9:.2f} GB, {sum(int(np.prod(s)) for s in tensors.values()) / 1e9:.3f} B parameters")
