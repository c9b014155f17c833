"""The encoder in PyTorch, as a contestant of the suite (benchmarks/contestants/protocol.ts): the CLIP tower is transformers' own CLIPVisionModel, the head
the plainest module that says the same as src/models/omni_encoder.ts. Weights come from the same safetensors file as everybody's."""

import json
import os
import sys
import time

task = json.loads(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(task["threads"])

import torch  # noqa: E402  (after the number of threads is set)
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402
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
            return t.unflatten(-1, (self.heads, -1)).transpose(0, 1)

        y = scaled_dot_product_attention(split(self.to_q(x))[None], split(self.to_k(z))[None], split(self.to_v(z))[None])
        return self.to_out(y[0].transpose(0, 1).flatten(1))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


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


class OmniIdEncoder(nn.Module):
    """One identity: the features of its photos [photos, tokens, width] to [L, C]."""

    def __init__(self, c, vision_width):
        super().__init__()
        width, heads, eps = c["c"], c["heads"], c["layer_norm_eps"]
        hidden = round(width * c["ratio"])
        self.queries = nn.Parameter(torch.empty(c["L"], width))
        self.cross_blocks = nn.ModuleList(
            CrossBlock(width, vision_width, heads, hidden, eps) for _ in range(c["n_cross"])
        )
        self.self_blocks = nn.ModuleList(SelfBlock(width, heads, hidden, eps) for _ in range(c["n_self"]))
        self.norm_out = nn.LayerNorm(width, eps)

    def forward(self, features):
        z, x = features.flatten(0, 1), self.queries
        for block in self.cross_blocks:
            x = block(x, z)
        for block in self.self_blocks:
            x = block(x)
        return self.norm_out(x)[None]


def load():
    torch.set_num_threads(task["threads"])
    with open(os.path.join(task["folder"], "config.json")) as file:
        config = json.load(file)
    vision = CLIPVisionConfig(**config["vision"], attn_implementation="sdpa")
    weights = load_file(os.path.join(task["folder"], "model.safetensors"))
    dtype = torch.bfloat16 if task["dtype"] == "bf16" else torch.float32

    tower_weights = {name: w for name, w in weights.items() if name.startswith("vision_model.")}
    with torch.device("meta"):
        tower = CLIPVisionModel(vision)
    # transformers 5 dropped the prefix from the module, and kept it in the files.
    if not any(name.startswith("vision_model.") for name in tower.state_dict()):
        tower_weights = {name.removeprefix("vision_model."): w for name, w in tower_weights.items()}
    # post_layernorm is in no file of ours: last_hidden_state comes before it.
    for name, value in tower.state_dict().items():
        tower_weights.setdefault(name, torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape))
    tower.load_state_dict({n: w for n, w in tower_weights.items() if n in tower.state_dict()}, assign=True)
    for name, buffer in list(tower.named_buffers()):
        if name.endswith("position_ids"):
            owner = tower.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1])[None]
    tower = tower.to(dtype).eval()
    if task["part"] == "features":
        return lambda pixels: tower(pixel_values=pixels).last_hidden_state, dtype
    if task["part"] == "block":
        layer = getattr(tower, "vision_model", tower).encoder.layers[0]

        def block(x):
            y = layer(x, attention_mask=None)
            return y[0] if isinstance(y, tuple) else y

        return block, dtype
    with torch.device("meta"):
        head = OmniIdEncoder(config["encoder"], vision.hidden_size)
    head.load_state_dict({n: w for n, w in weights.items() if not n.startswith("vision_model.")}, assign=True)
    head = head.to(dtype).eval()
    return lambda pixels: head(tower(pixel_values=pixels).last_hidden_state), dtype


def send(**message):
    print(json.dumps(message), flush=True)


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


@torch.inference_mode()
def main():
    started = time.perf_counter()
    model, dtype = load()
    load_seconds = time.perf_counter() - started
    inputs = torch.from_file(task["inputs"], size=os.path.getsize(task["inputs"]) // 4, dtype=torch.float32)
    inputs = inputs.view(-1, *task["inputShape"])
    works, firsts = {}, {}
    for work in task["works"]:
        photos = inputs[: sum(work["identities"])].to(dtype)
        works[work["name"]] = (photos, work["repeat"])
        begin = time.perf_counter()
        outputs = model(photos)
        firsts[work["name"]] = {"firstSeconds": time.perf_counter() - begin}
        outputs.float().contiguous().numpy().tofile(os.path.join(task["outputs"], work["name"] + ".f32"))
    send(type="ready", loadSeconds=load_seconds, works=firsts)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        photos, repeat = works[line.strip().removeprefix("run ")]
        begin = time.perf_counter()
        for _ in range(repeat):
            model(photos)
        send(type="sample", seconds=(time.perf_counter() - begin) / repeat)
    send(type="end", peakBytes=peak_bytes())


try:
    main()
except Exception as error:  # whatever it is, the suite wants to know and go on
    send(type="error", message=f"{type(error).__name__}: {error}"[:1000])
    sys.exit(1)
