"""The process of `codi2.prompt.template` that renders chat templates: one JSON value a line in, one out."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

CPU_SECONDS = 3_600  # limit of the process: it ends with its parent, unless a template never returns


def main(megabytes: int, longest: int) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template  # its sandbox is stricter than Jinja's

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            rendered, _ = render_jinja_template(
                [request["turns"]],
                chat_template=request["template"],
                add_generation_prompt=request["reply"],
                **request["names"],
            )
            text = rendered[0]
            if len(text) > longest:
                raise ValueError(f"it writes more than {longest:,} characters")
            answer = json.dumps({"text": text})
        except MemoryError:
            answer = json.dumps({"error": f"it takes more than {megabytes} megabytes"})
        except Exception as error:  # from Jinja or from the template's code
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            answer = json.dumps({"error": reason[:300] or type(error).__name__})
        print(answer, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
