from codi2.demo import REQUESTS


def test_the_demo_answers_every_prompt_on_one_page(cli, tmp_path):
    done = cli("demo", "--model", "debug", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "out/index.html" in done.stdout
    html = (tmp_path / "out" / "index.html").read_text()
    assert html.count("<section>") == len(REQUESTS) >= 10
    for request in REQUESTS:
        assert request.title in html
    wanted = sum(kind != "text" for request in REQUESTS for kind in request.want.split(","))
    assert sum(len([*(tmp_path / "out").glob(f"*.{kind}")]) for kind in ("png", "wav", "mp4")) >= wanted


def test_the_prompts_cover_every_pair_of_modalities():
    combinations = {(file.rpartition(".")[2], request.want) for request in REQUESTS for file in request.files}
    pairs = {(kind, want) for kind in ("png", "wav") for want in ("text", "image", "audio")}
    assert combinations == pairs | {("webp", "text"), ("png", "video"), ("webp", "video")}
    assert {"video", "video,audio"} <= {request.want for request in REQUESTS}


def test_every_sample_file_has_an_attribution(media):
    from fnmatch import fnmatch

    table = (media / "ATTRIBUTION.md").read_text()
    patterns = [
        cell for line in table.splitlines() if line.startswith("|") for cell in line.split("|")[1].split("`")[1::2]
    ]
    for file in media.iterdir():
        assert file.suffix == ".md" or any(fnmatch(file.name, pattern) for pattern in patterns), file.name
