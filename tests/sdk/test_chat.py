"""Chat templates rendered without a server, against transformers."""

from __future__ import annotations

import fluoroscope as fs
import pytest
from fluoroscope.chat import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be <brief> & \"kind\"."},
    {"role": "user", "content": "Grüß dich\n"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Again?"},
]
TEMPLATES = {
    "bos": "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message.content | trim }}{{ eos_token }}{% endfor %}",
    "prompt": "{% for m in messages %}\n  <{{ m.role }}>{{ m.content }}\n{% endfor %}\n{% if add_generation_prompt %}<assistant>{% endif %}",
    "json": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }}",
    "loops": "{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}{{ loop.index0 }}{{ m.role }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}-{% endif %}{% endfor %}",
    "tools": "{% if tools %}tools{% else %}none{% endif %}{{ documents is none }}",
}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_what_transformers_makes_of_it(name, add_generation_prompt):
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs, _ = render_jinja_template([MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=add_generation_prompt, **tokens)
    assert ChatTemplate("m", TEMPLATES[name], tokens).render(MESSAGES, add_generation_prompt=add_generation_prompt) == theirs[0]


def test_variables_reach_the_template():
    assert ChatTemplate("m", "{{ language }}", {}).render(MESSAGES, language="de") == "de"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", fs.FailedPreconditionError, "m has no chat template"),
        ("{% for %}", fs.FailedPreconditionError, "is broken"),
        ("{{ raise_exception('only users') }}", ValueError, "refuses these messages: only users"),
        ("{{ messages.append(1) }}", ValueError, "refuses"),
        ("{{ ''.__class__.__mro__ }}", ValueError, "refuses"),
    ],
)
def test_what_a_template_may_not_do(text, error, words):
    with pytest.raises(error, match=words):
        ChatTemplate("m", text, {}).render(MESSAGES)
