"""A step of few-to-many training in PyTorch, as a contestant of the suite (benchmarks/training/protocol.ts): the CLIP tower is transformers' own CLIPVisionModel, the
blocks are the plainest modules that say the same as src/nn/query_blocks.ts, written for speed: identities in one batch, an identity's keys and values computed once for
all of its targets, only visible patches embedded, fused AdamW. Mixed precision is autocast's."""

import json
import os
import sys
import time

task = json.loads(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(task["threads"])

import torch  # noqa: E402  (after the number of threads is set)
from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import gelu, scaled_dot_product_attention  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModel  # noqa: E402


class Attention(nn.Module):
    def __init__(self, width, kv_width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(kv_width, width)
        self.to_v = nn.Linear(kv_width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x, z):
        def split(t):
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        y = scaled_dot_product_attention(split(self.to_q(x)), split(self.to_k(z)), split(self.to_v(z)))
        return self.to_out(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class CrossBlock(nn.Module):
    def __init__(self, width, kv_width, heads, hidden, eps):
        super().__init__()
        self.norm_q = nn.LayerNorm(width, eps)
        self.norm_kv = nn.LayerNorm(kv_width, eps)
        self.attn = Attention(width, kv_width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, hidden)

    def forward(self, x, z):
        x = x + self.attn(self.norm_q(x), self.norm_kv(z))
        return x + self.mlp(self.norm_mlp(x))


class SelfBlock(nn.Module):
    def __init__(self, width, heads, hidden, eps):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.attn = Attention(width, width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, hidden)

    def forward(self, x):
        normed = self.norm(x)
        x = x + self.attn(normed, normed)
        return x + self.mlp(self.norm_mlp(x))


class Blocks(nn.Module):
    def __init__(self, width, kv_width, heads, ratio, cross, own, eps):
        super().__init__()
        hidden = round(width * ratio)
        self.cross_blocks = nn.ModuleList(CrossBlock(width, kv_width, heads, hidden, eps) for _ in range(cross))
        self.self_blocks = nn.ModuleList(SelfBlock(width, heads, hidden, eps) for _ in range(own))
        self.norm_out = nn.LayerNorm(width, eps)


class Encoder(Blocks):
    """Photos [identities · inputs, 3, size, size] to ℓ [identities, L, C]."""

    def __init__(self, c, vision):
        eps = c["layer_norm_eps"]
        super().__init__(c["c"], vision.hidden_size, c["heads"], c["ratio"], c["n_cross"], c["n_self"], eps)
        self.tower = CLIPVisionModel(vision)
        self.queries = nn.Parameter(torch.empty(c["L"], c["c"]))

    def forward(self, photos, identities):
        features = self.tower(pixel_values=photos).last_hidden_state
        z = features.reshape(identities, -1, features.shape[-1])
        x = self.queries.expand(identities, -1, -1)
        for block in self.cross_blocks:
            x = block(x, z)
        for block in self.self_blocks:
            x = block(x)
        return self.norm_out(x)


class Decoder(Blocks):
    """ℓ and visible patches to all pixels of all patches, [targets, patches, 3 · patch²]."""

    def __init__(self, c, kv_width):
        super().__init__(
            c["width"], kv_width, c["heads"], c["mlpRatio"], c["crossBlocks"], c["selfBlocks"], c["layerNormEps"]
        )
        pixels = 3 * c["patchSize"] ** 2
        patches = (c["imageSize"] // c["patchSize"]) ** 2
        self.patch_embed = nn.Linear(pixels, c["width"])
        self.mask_token = nn.Parameter(torch.empty(c["width"]))
        self.pos_embed = nn.Parameter(torch.empty(patches, c["width"]))
        self.head = nn.Linear(c["width"], pixels)

    def forward(self, tokens, patches, visible):
        """patches [targets, patches, pixels], visible [targets, visible]"""
        targets, count = patches.shape[:2]
        identities, width = tokens.shape[0], self.mask_token.shape[0]
        seen = self.patch_embed(patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1])))
        x = self.mask_token.to(seen.dtype).expand(targets, count, -1)
        x = x.scatter(1, visible[..., None].expand(-1, -1, width), seen).float() + self.pos_embed
        x = x.reshape(identities, -1, width)
        for block in self.cross_blocks:
            x = block(x, tokens)
        x = x.reshape(targets, count, width)
        for block in self.self_blocks:
            x = block(x)
        return self.head(self.norm_out(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        vision = CLIPVisionConfig(**c["encoder"]["vision"], attn_implementation="sdpa")
        self.encoder = Encoder(c["encoder"]["encoder"], vision)
        self.mtd = Decoder(c["decoder"], c["encoder"]["encoder"]["c"])

    def forward(self, photos, identities, patches, mask, visible):
        prediction = self.mtd(self.encoder(photos, identities), patches, visible)
        return ((prediction - patches).abs() * mask).sum() / mask.sum()


def patched(images, patch):
    """[targets, channels, size, size] to [targets, patches, patch² · channels], pixels in the order [y][x][channel]."""
    rows = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2).contiguous()


def load_parameters(model):
    own = dict(model.named_parameters())
    tower = "encoder.tower."
    # transformers 5 dropped the prefix from the module, and kept it in the files.
    inner = "" if not any(name.startswith(f"{tower}vision_model.") for name in own) else "vision_model."
    decayed, rest = [], []
    with safe_open(os.path.join(task["folder"], "model.safetensors"), "pt") as file, torch.no_grad():
        for name in file.keys():
            place = name.replace("encoder.vision_model.", tower + inner)
            parameter = own.pop(place)
            parameter.copy_(file.get_tensor(name))
            (decayed if name in set(task["decayed"]) else rest).append(parameter)
    # post_layernorm is in no file of ours: last_hidden_state comes before it.
    for name, parameter in own.items():
        if "post_layernorm" not in name:
            raise ValueError(f"the file has no {name}")
        parameter.requires_grad_(False)
    return decayed, rest


def batch(c):
    def read(name, dtype, *shape):
        path = os.path.join(task["batch"], name)
        return torch.from_file(path, size=os.path.getsize(path) // 4, dtype=dtype).view(*shape).clone()

    image, patch = c["decoder"]["imageSize"], c["decoder"]["patchSize"]
    patches = patched(read("targets", torch.float32, -1, 3, image, image), patch)
    mask = read("mask", torch.float32, -1, 1, image, image).expand(-1, 3, -1, -1)
    visible = read("visible", torch.int32, -1, c["visible"]).long()
    photos = read("inputs", torch.float32, -1, 3, image, image)
    return photos, c["identities"], patches, patched(mask, patch), visible


def load():
    torch.set_num_threads(task["threads"])
    c, o = task["case"], task["optimizer"]
    model = Model(c).train()
    decayed, rest = load_parameters(model)
    groups = [{"params": decayed, "weight_decay": o["weightDecay"]}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=o["learningRate"], betas=tuple(o["betas"]), eps=o["epsilon"], fused=True)
    forward = torch.compile(model) if task["compile"] else model
    data = batch(c)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=task["dtype"] == "bf16"):
            loss = forward(*data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decayed + rest, o["clipGradNorm"])
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.item()

    return step


def send(**message):
    print(json.dumps(message), flush=True)


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def main():
    started = time.perf_counter()
    step = load()
    load_seconds = time.perf_counter() - started
    works = {work["name"]: work["repeat"] for work in task["works"]}
    firsts = {}
    for name in works:
        begin = time.perf_counter()
        losses = [step() for _ in range(3 if name == "first steps" else 1)]
        firsts[name] = {"firstSeconds": time.perf_counter() - begin}
        torch.tensor(losses).numpy().tofile(os.path.join(task["outputs"], name + ".f32"))
    send(type="ready", loadSeconds=load_seconds, works=firsts)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        repeat = works[line.strip().removeprefix("run ")]
        begin = time.perf_counter()
        for _ in range(repeat):
            step()
        send(type="sample", seconds=(time.perf_counter() - begin) / repeat)
    send(type="end", peakBytes=peak_bytes())


try:
    main()
except Exception as error:  # whatever it is, the suite wants to know and go on
    send(type="error", message=f"{type(error).__name__}: {error}"[:1000])
    sys.exit(1)
