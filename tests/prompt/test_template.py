"""Chat templates from elsewhere are rendered as by the tokenizer, in a process that nothing can leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codi2.config import LLMConfig
from codi2.errors import PromptError
from codi2.llm.backbone import load_tokenizer
from codi2.prompt import template
from codi2.prompt.template import render

DOUBLED = "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "a loop": LOOP,
    "a loop that writes": LOOP.replace("{% endfor %}", "x{% endfor %}", 1),
    "a text that doubles": DOUBLED,
    "a text that is repeated": "{{ 'a' * 10 ** 10 }}",
    "a wide text": "{{ '%10000000000d' % 1 }}",
    "a centred text": "{{ 'a'.center(10 ** 10) }}",
    "a power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "ten million characters": "{{ 'a' * 10 ** 7 }}",
    "a template without end": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a megabyte of template": "x" * 10**6,
    "no template": "{% for %}",
    "a call of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "an import": "{% import 'os' as os %}{{ os.system('touch ran') }}",
    "a file": "{% include '/etc/passwd' %}",
    "cycler's globals": "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "a namespace's": "{{ namespace.__init__.__globals__['os'].system('touch ran') }}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_hostile_chat_template_is_one_sentence(
    case: str, tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(template, "SECONDS", 4.0)
    tokenizer = load_tokenizer(LLMConfig(kind="random", chat_template=TEMPLATES[case]))
    try:
        text = render(tokenizer, [{"role": "user", "content": "x"}], reply=True)
    except PromptError as error:
        assert "chat template" in str(error) and "\n" not in str(error) and len(str(error)) < 1_000
    else:
        assert len(text) < 100_000 and case in ("a call of Python",)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    assert render(tokenizer, [{"role": "user", "content": "still here"}], reply=True) == "still here!"
    assert not list(tmp_path.iterdir()) and not ran.exists()


def test_templates_are_rendered_as_by_the_tokenizer() -> None:
    tokenizer = load_tokenizer(LLMConfig(kind="random"))
    own = tokenizer.chat_template
    turns = [{"role": role, "content": f"{role}: “é”"} for role in ("system", "user", "assistant", "user")]
    for text in (
        own,
        own + "{# another #}",
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% break %}{% endfor %}",
    ):
        tokenizer.chat_template = text
        for reply in (True, False):
            expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply)
            assert render(tokenizer, turns, reply) == expected


def test_the_renderer_ends_with_its_parent() -> None:
    code = (
        "from codi2.config import LLMConfig\nfrom codi2.llm.backbone import load_tokenizer\n"
        "from codi2.prompt import template\n"
        "t = load_tokenizer(LLMConfig(kind='random', chat_template='{{ 1 }}')); template.render(t, [], False)\n"
        "import os; print(template._process._running.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    child = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it lives on")


def test_a_forked_process_has_a_renderer_of_its_own() -> None:
    """Loaders of training data are forked: what one asks for must not reach another."""
    code = (
        "import os\nfrom codi2.config import LLMConfig\nfrom codi2.llm.backbone import load_tokenizer\n"
        "from codi2.prompt.template import render\n"
        "t = load_tokenizer(LLMConfig(kind='random', chat_template='[{{ messages[0].content }}]'))\n"
        "say = lambda text: render(t, [{'role': 'user', 'content': text}], False) == f'[{text}]'\n"
        "assert say('parent')\n"
        "for k in range(3):\n"
        "    if not os.fork():\n"
        "        os._exit(not all(say(f'{k}-{i}') for i in range(100)))\n"
        "print([os.wait()[1] for _ in range(3)], say('parent again'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[0, 0, 0] True", done.stderr
