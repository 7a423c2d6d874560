"""Writes chat_templates.json beside this file: templates rendered by Jinja2 the way Hugging Face's library does.

Needs the Python package jinja2. The demo model's template is read from chat_demo.jinja, the built-in ones from
src/chat/templates. Run it after a change of these.
"""

import json
import pathlib

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
BUILTIN = HERE.parent.parent / "src" / "chat" / "templates"


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Caf\u00e9 \"weather\" <b>&amp;\n\u4e2d",
            "parameters": {
                "type": "object",
                "properties": {"zone": {"type": "string"}, "city": {"type": "number", "default": 1.0}},
                "required": ["zone"],
            },
        },
    },
    {"type": "function", "function": {"name": "none", "parameters": {"a": None, "b": [], "c": {}, "d": True}}},
]


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "user": [message("user", "Hello")],
    "system": [message("system", "You are a helpful assistant"), message("user", "Hello")],
    "thinking_said": [message("system", "Be short.\ndetailed thinking on"), message("user", "Hello")],
    "turns": [
        message("system", "S"),
        message("user", "one"),
        message("assistant", "two"),
        message("user", " three\n"),
        message("assistant", "four <think>x</think>five"),
        message("user", "six"),
    ],
    "reasoning": [
        message("user", "one"),
        message("assistant", "two", reasoning_content="old"),
        message("user", "three"),
        message("assistant", "four", reasoning_content="\nnew\n"),
    ],
    "tools": [
        message("user", "weather?"),
        message("assistant", None, tool_calls=[call("weather", {"zone": "\u00e9", "n": 1.5}), call("none", {})]),
        message("tool", "sunny", name="weather", tool_call_id="c1"),
        message("tool", "nothing"),
        message("assistant", "It is sunny.", tool_calls=[call("weather", {"a": [1, 2, {"b": None}]})]),
        message("tool", "rain"),
        message("system", "late"),
        message("user", "\U0001f642 thanks"),
    ],
}

# Small templates, one property each.
SNIPPETS = [
    "{% for m in messages %}\n  {{ m.role }}:{{ m['content'] }}\n{% endfor %}\n",
    "{%- for m in messages -%}\n [{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ m.content | trim }}]\n{%- endfor -%}\n",
    "    {# gone #}\nA\n  {% if true %}\n    B\n  {% endif %}\nC",
    "{{ messages | tojson }}|{{ tools | tojson(indent=2) }}|{{ tools | tojson(ensure_ascii=true) }}",
    "{{ {'b': 1, 'a': {'d': 1e16, 'c': 0.00001}} | tojson(sort_keys=true) }}|{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "{{ {'a': [], 'b': {}, 'c': [[]]} | tojson(indent=4) }}",
    "{{ '\\u007f\\u2028\\x07\\\\/\"\\t' | tojson }}|{{ '\\u007f\\u2028\\x07\\ud7ff' | tojson(ensure_ascii=true) }}",
    "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "{{ messages[-1].content }}|{{ messages[::-1][0].role }}|{{ messages[1:] | length }}|{{ messages[0]['nope'] }}|",
    "{{ messages[0].nope is defined }}{{ messages[0].content is string }}{{ messages is sequence }}{{ 'x' is sequence }}{{ none is none }}{{ tools is mapping }}",
    "{{ 'a,b,c'.split(',')[1] }}{{ ' x '.strip() }}{{ 'xay'.strip('xy') }}{{ 'Ab'.upper() }}{{ 'ab'.startswith('a') }}{{ 'abc'.replace('b', '-') }}",
    "{{ '</think>'.split('</think>')[-1] }}|{{ 'a</think>b'.split('</think>')[0].split('<think>')[-1].lstrip('\\n') }}",
    "{% macro f(x, y='d') %}<{{ x }}{{ y }}>{% endmacro %}{{ f(1) }}{{ f(2, y=3) }}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.content }}{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('content', 'd') }}{{ messages[0].get('x', 'd') }}",
    "{{ messages | map(attribute='role') | list | join(', ') }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ true }} {{ none }} {{ 1.0 }} {{ 3 / 2 }} {{ 7 // 2 }} {{ 2 ** 3 }} {{ 7 % 3 }} {{ ['a', 1, none] }} {{ {'k': 'it\\'s'} }} {{ 'a' ~ 1 }}",
    "{{ tools[0].function.name if tools else 'none' }}{{ 'x' if not tools }}{{ messages[0].content or 'd' }}{{ (none or 'd') | upper }}",
    "{% set x = [1] %}{% set x = x + [2] %}{{ x }}{{ 2 in x }}{{ 3 not in x }}{{ x | last }}{{ range(3) | list }}",
    "{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'x' | default('d') }}{{ nope | default('d') }}{{ '' | default('d', true) }}",
    "{% set content %}{{ messages[0].content }}!{% endset %}{{ content | length }}{{ content }}",
    "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ enable_thinking is defined }}",
    "{% if messages | length > 100 %}{{ raise_exception('too many') }}{% endif %}ok",
]


def render(env, source, name, thinking=None, tools=None, generate=True):
    """The prompt, or the words of a refusal under another key."""
    variables = {} if thinking is None else {"enable_thinking": thinking}
    try:
        return {"output": render_text(env, source, name, variables, tools, generate)}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": str(error)}


def render_text(env, source, name, variables, tools, generate):
    return env.from_string(source).render(
        messages=CONVERSATIONS[name],
        tools=tools,
        documents=None,
        add_generation_prompt=generate,
        bos_token="<s>",
        eos_token="</s>",
        **variables,
    )


def main():
    env = environment()
    sources = {"demo": (HERE / "chat_demo.jinja").read_text(encoding="utf-8")}
    sources |= {path.stem: path.read_text(encoding="utf-8") for path in sorted(BUILTIN.glob("*.jinja"))}
    cases = []
    for template, source in sources.items():
        for name in CONVERSATIONS:
            for thinking in [None, True]:
                tools = TOOLS if name == "tools" else None
                output = render(env, source, name, thinking, tools, name != "reasoning")
                cases.append({"template": template, "conversation": name, "thinking": thinking, **output})
    for source in SNIPPETS:
        for name in ["turns", "tools"]:
            output = render(env, source, name, None, TOOLS)
            cases.append({"source": source, "conversation": name, "thinking": None, **output})
    golden = {"tools": TOOLS, "conversations": CONVERSATIONS, "cases": cases}
    (HERE / "chat_templates.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="ascii")


main()
