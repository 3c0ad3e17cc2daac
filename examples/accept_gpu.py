"""Third part of accept_gpu.sh: norms, a reply of each modality, and that some training steps lower the losses.

Writes pictures, sounds, clips and figures to the folder it is given; ends with 1 where a check fails.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from codi2 import CoDi2
from codi2.cli.output import save_reply
from codi2.demo import sample_media
from codi2.doctor.norms import decoder_norms, encoder_norms
from codi2.heads.loss import codi2_loss
from codi2.prompt.layout import Message, collate
from codi2.prompt.parts import Text

STEPS = 20
PROMPTS = {
    "image": "Draw a cat on a couch.",
    "audio": "Make the sound of rain on a roof.",
    "video": "Show a boat that sails into the harbour.",
}


def main(out: Path, name: str = "paper") -> int:
    """Figures go to `out`/accept.json. Returns how many checks failed."""
    device = os.environ.get("DEVICE", "cuda")
    placement = {"device": device, "dtype": "float16" if device == "cuda" else "float32"}
    model = CoDi2.from_pretrained(
        name, **placement, bits=int(os.environ.get("BITS", "0")), offload=bool(os.environ.get("OFFLOAD"))
    )
    figures: dict[str, object] = {}
    failed = []
    with model.resident(model.encoder):
        figures["encoder norms"] = [vars(one) for one in encoder_norms(model.encoder, sample_media())]
    figures["decoder norms"] = [vars(one) for one in decoder_norms(model.decoders)]

    for want in model.decoders:
        began = time.perf_counter()
        reply = model.generate(PROMPTS[want], want=want, seed=1)
        seconds = time.perf_counter() - began
        save_reply(reply, out, want)
        figures[f"{want}: seconds"] = round(seconds, 2)
        print(f"{want}: {seconds:.1f} s → {out}", flush=True)

    losses = learn(model)
    figures["losses"] = losses
    if not losses[-1] < 0.9 * losses[0]:
        failed.append(f"{STEPS} steps on one example took the loss from {losses[0]:.3f} to {losses[-1]:.3f} only")
    if torch.cuda.is_available():
        figures["peak GPU memory, GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    (out / "accept.json").write_text(json.dumps({**figures, "failed": failed}, indent=2) + "\n")
    print("\n".join(failed) or "accepted; now look at the pictures and listen to the sounds")
    return len(failed)


def learn(model: CoDi2) -> list[float]:
    """Losses of some steps on one example: a picture that is to be answered with itself."""
    picture = next(part for part in sample_media()["image"])
    talk = [Message("user", (Text("Repeat "), picture)), Message("assistant", (picture,))]
    batch = collate([model.layout(talk)], model.mllm.backbone.pad_id).to(model.device)
    features = model.encode(batch.items, batch.slot_item.bincount().tolist())
    trained = ("lora_", "trainable_tokens", "enter.", "leave.")
    learned = []
    for name, parameter in model.mllm.named_parameters():
        if any(part in name for part in trained):
            learned.append(parameter.requires_grad_(True))
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    losses = []
    with model.resident(model.mllm.backbone):
        for _ in range(STEPS):
            taught = model.mllm(batch, features)
            loss = codi2_loss(
                model.config.heads, taught.prediction, taught.target, taught.logits.float(), taught.labels
            )["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    for parameter in learned:
        parameter.requires_grad_(False)
    return losses


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit(1 if main(folder, *sys.argv[2:]) else 0)
