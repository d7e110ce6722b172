#!/usr/bin/env python3
"""What transformers renders, for `crates/data/tests/templates.rs`.

    pip install transformers jinja2 xxhash
    python3 tools/chat_templates.py [--assets ../shared/assets/tokenizers] \
        [--out crates/data/tests/fixtures/chat_templates.json]

Makes 200 conversations from a seed (system prompts, several turns, Unicode, tool calls and their results, reasoning, tool
schemas, `enable_thinking`, a generation prompt or a final message to continue) and renders each through the chat template
of every tokenizer configuration under ASSETS with transformers' own `apply_chat_template`. Written are the conversations
and, for each template, the XXH3-128 of every rendering, or null where transformers refuses to render. The templates
themselves and what they say stay out of the file.

`--templates DIR` renders `*.jinja` of a folder in place of the configurations, with `--texts FILE` for the renderings in
full: for looking at a difference, not for keeping.

The clock that templates ask through `strftime_now` stands still at DATE.
"""

import argparse
import datetime
import json
import pathlib
import random

import jinja2
import tokenizers
import transformers
import transformers.utils.chat_template_utils as chat_template_utils
import xxhash

SEED = 20260307
COUNT = 200
DATE = datetime.datetime(2026, 3, 7, 9, 5, 3)

WORDS = (
    "candle wick wax flame lantern harbour orchard pebble copper thimble meadow sparrow kettle ladder marble "
    "river cloud compass violin ribbon saddle turnip anchor basket mitten quarry saffron tunnel walnut zephyr"
).split()
ODD = [
    "naïve café", "Größe", "蝋燭の芯", "свеча", "شمعة", "נר", "मोमबत्ती", "👩‍👩‍👧‍👦", "🕯️", "e\u0301", "x < y && y > z", "it's \"quoted\"",
    "back\\slash", "tab\there", "line\nbreak", "non\u00a0breaking", "{{ braces }}", "{% if %}", "100%", "<|im_end|>", "</think>",
    "ligature ﬁ", "İstanbul", "\u200bzero", "\x1cfs", "null", "None", "True",
]
SYSTEMS = [
    "Answer in one sentence.", "You keep the lighthouse.", "Be brief. /no_think", "/think Take your time.",
    "  Spaces around.  ", "/system_override You are a lamp.", "Zwei Zeilen.\nDie zweite.", "",
]
TOOLS = [
    {"type": "function", "function": {"name": "light", "description": "Light a candle.", "parameters": {
        "type": "object", "properties": {"which": {"type": "string", "description": "The candle's name"},
        "minutes": {"type": "integer", "minimum": 1, "default": 20}, "scented": {"type": "boolean", "default": False}},
        "required": ["which"]}}},
    {"type": "function", "function": {"name": "weather", "description": "Wind & rain at a \"place\" <now>.", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "enum": ["Kiel", "Brest", "Ōsaka"]},
        "items": {"type": "array", "items": {"type": "number"}}, "unit": {"type": ["string", "null"], "default": None}},
        "required": ["place"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "tide", "description": "", "parameters": {
        "type": "object", "properties": {}, "x-ratio": 0.5, "x-small": 1e-07, "x-large": 1e+22, "x-whole": 3.0, "x-neg": -12}}},
    {"name": "bare", "description": "A schema that is not wrapped: it's plain.", "parameters": {"zeta": 1, "alpha": [], "mid": {}}},
]


def phrase(rng, most=12):
    words = [rng.choice(ODD) if rng.random() < 0.12 else rng.choice(WORDS) for _ in range(rng.randint(1, most))]
    text = " ".join(words)
    ending = rng.random()
    if ending < 0.08:
        return text + "  "
    if ending < 0.16:
        return "\n" + text + "\n"
    return text + rng.choice([".", "?", "!", "…", ""])


def arguments(rng):
    made = {}
    for key in rng.sample(["which", "place", "minutes", "deep", "flag", "nothing", "ratio"], rng.randint(0, 4)):
        made[key] = {
            "which": phrase(rng, 2), "place": "Ōsaka", "minutes": rng.randint(-5, 10**10), "deep": {"b": [1, {"a": None}], "a": "ü"},
            "flag": rng.random() < 0.5, "nothing": None, "ratio": round(rng.uniform(-2, 2), 3),
        }[key]
    return made


def call(rng, number):
    name = rng.choice(["light", "weather", "tide"])
    given = arguments(rng)
    if rng.random() < 0.2:
        given = json.dumps(given)
    if rng.random() < 0.15:
        return {"name": name, "arguments": given}
    return {"type": "function", "id": f"call_{number}", "function": {"name": name, "arguments": given}}


def assistant(rng):
    message = {"role": "assistant", "content": phrase(rng, 20)}
    kind = rng.random()
    if kind < 0.15:
        message["reasoning_content"] = phrase(rng)
    elif kind < 0.3:
        message["content"] = f"<think>\n{phrase(rng)}\n</think>\n\n{message['content']}"
    elif kind < 0.35:
        message["thinking"] = phrase(rng)
    return message


def turn(rng):
    messages = [{"role": "user", "content": phrase(rng)}]
    if rng.random() < 0.3:
        asking = assistant(rng)
        asking["content"] = rng.choice(["", asking["content"]])
        asking["tool_calls"] = [call(rng, number) for number in range(rng.randint(1, 3))]
        messages.append(asking)
        for number, _ in enumerate(asking["tool_calls"]):
            result = phrase(rng) if rng.random() < 0.5 else json.dumps({"wind": rng.randint(0, 99)})
            messages.append({"role": "tool", "content": result, "name": "light", "tool_call_id": f"call_{number}"})
    messages.append(assistant(rng))
    return messages


def conversation(rng):
    messages = []
    if rng.random() < 0.55:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    for _ in range(rng.randint(1, 4)):
        messages += turn(rng)
    made = {"messages": messages}
    mode = rng.choice(["closed", "generation", "continue"])
    if mode == "generation" or (mode == "closed" and rng.random() < 0.3):
        messages.pop()
    if rng.random() < 0.05:
        messages.insert(rng.randint(1, len(messages)), {"role": "system", "content": phrase(rng)})
    if rng.random() < 0.05:
        messages[0]["extra"] = None
    if rng.random() < 0.4:
        made["tools"] = sorted(rng.sample(range(len(TOOLS)), rng.randint(1, len(TOOLS))))
    if rng.random() < 0.4:
        made["arguments"] = {"enable_thinking": rng.random() < 0.5}
    if rng.random() < 0.05:
        made.setdefault("arguments", {})["xml_tools"] = TOOLS[:1]
    if rng.random() < 0.05:
        made.setdefault("arguments", {})["python_tools"] = ["def f(x):\n    return x", {"name": "it's"}]
    made["mode"] = mode
    return made


def tokenizer(config, template):
    """A tokenizer of one word with the special tokens of a configuration: rendering asks for nothing else."""
    special = {key: value["content"] if isinstance(value, dict) else value for key, value in config.items()
               if key in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token") and value}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, unk_token="x"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **special)


def render(tokenizer, made):
    try:
        return tokenizer.apply_chat_template(
            made["messages"], tools=[TOOLS[index] for index in made["tools"]] if "tools" in made else None,
            tokenize=False, add_generation_prompt=made["mode"] == "generation",
            continue_final_message=made["mode"] == "continue", **made.get("arguments", {}))
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError):
        return None


def templates(options):
    if options.templates:
        for path in sorted(options.templates.glob("*.jinja")):
            yield path.stem, tokenizer({"bos_token": "<s>", "eos_token": "</s>"}, path.read_text())
        return
    for path in sorted(options.assets.glob("*/tokenizer_config.json")):
        config = json.loads(path.read_text())
        beside = path.with_name("chat_template.jinja")
        template = beside.read_text() if beside.exists() else config.get("chat_template")
        if template:
            yield path.parent.name, tokenizer(config, template)


class StoppedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=pathlib.Path, default=pathlib.Path("../shared/assets/tokenizers"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("crates/data/tests/fixtures/chat_templates.json"))
    parser.add_argument("--templates", type=pathlib.Path)
    parser.add_argument("--texts", type=pathlib.Path)
    options = parser.parse_args()
    chat_template_utils.datetime = StoppedClock
    rng = random.Random(SEED)
    conversations = [conversation(rng) for _ in range(COUNT)]
    texts = {name: [render(made_for, made) for made in conversations] for name, made_for in templates(options)}
    digests = {name: [text if text is None else xxhash.xxh3_128_hexdigest(text.encode()) for text in of]
               for name, of in texts.items()}
    head = {"made_by": "tools/chat_templates.py", "transformers": transformers.__version__, "jinja2": jinja2.__version__,
            "date": DATE.isoformat(), "tools": TOOLS}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    rows = ",\n".join(json.dumps(made, ensure_ascii=False, separators=(",", ":")) for made in conversations)
    lines.append(f'"conversations": [\n{rows}\n]')
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(of, separators=(',', ':'))}" for name, of in digests.items())
    lines.append(f'"renderings": {{\n{rows}\n}}')
    options.out.write_text("{" + ",\n".join(lines) + "}\n")
    if options.texts:
        options.texts.write_text(json.dumps(texts, ensure_ascii=False))
    for name, of in texts.items():
        print(f"{name}: {sum(text is not None for text in of)} rendered, {sum(text is None for text in of)} refused")


if __name__ == "__main__":
    main()
