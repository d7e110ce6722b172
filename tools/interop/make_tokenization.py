"""Token ids and boundaries of preference pairs as TRL 1.16 makes them, on sentences of our own.

    python make_tokenization.py --tokenizer tinystories-656k=DIR --tokenizer gpt2=DIR    -> tests/expected/tokenization_trl.json

A DIR holds tokenizer.json and tokenizer_config.json. The ids come out of `DPOTrainer._prepare_dataset` itself; rows on which
transformers' rebuilt tokenizer and the plain `tokenizers` library disagree are refused here, since no rule of boundaries could agree.
TRL appends the end of sequence as text. Appending its id is the same thing, which is asserted, and the only way for tokenizers whose
tokenizer.json (through `normalized: true`) does not recognise that text inside a longer one.
"""
import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

import common

disable_progress_bars()
WHO = ["The cat", "A small dog", "My friend Lily", "Tom", "The old man"]
ASKS = [" saw a red ball", " was very sad", " went to the park", " found 3 coins"]
# (what ends the prompt, what begins each reply): every way a boundary can fall on, before or inside a token.
JOINTS = [
    (".", " ", " "), (". ", "", ""), (".\n", "", ""), (" and", " ", "y "), (" and the", "", "re "),
    (" but", "ter ", " "), ('. "', "", '"'), ("?", "\n", "\n\n"), (" ", "  ", " "), (" to", "day ", "morrow "),
]
GOOD = ["They all smiled and played until the sun went down.", "It was fun, so he said thank you!", "She gave it back to her mom"]
BAD = ["No one cared.", "He hid it and ran away; nobody knew where", "I don't know. I don't know."]
ODD = [
    ("", "Once upon a time, there was a bird.", "Nothing."),
    ("Tom", "", " ran."),
    ("Tom and Lily ", "played", "play"),
    ("A dog", "A dog barked", "A dog"),
    ("Hi!", " Hi!", " Hi! Hi!"),
    ("One\n\nTwo\n", "\nThree", "Three\n"),
    ("He counted 12", "3 birds.", "34 birds."),
    ("They said <", "3", "|"),
]
# For a byte-level tokenizer: characters of all lengths, nothing but spaces, an end of sequence that is already there.
WIDE = [
    ("Le garçon a dit", " « déjà vu » à l’école.", " non…"),
    ("価格は", "三百円です。", "まだ決まっていません。"),
    ("Emoji: 👩", "‍🚀 flies", "🏽 waves"),
    ("x² + y² =", " z²\t(right)", "\u00a0z"),
    ("naïve", "té", "ly"),
    ("I'", "ll stay", "m off"),
    ("   ", "   ", " "),
    ("It is", " over.<|endoftext|>", " over"),
]


def pairs():
    rows = []
    for i, (end, first, second) in enumerate(JOINTS * 5):
        prompt = WHO[i % 5] + ASKS[(i // 3) % 4] + end
        rows.append((prompt, first + GOOD[i % 3], second + BAD[(i // 2) % 3]))
    return list(dict.fromkeys(rows))


def prepared(tokenizer, rows):
    """What TRL's trainer makes of the rows, without building a trainer."""
    trainer = object.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    data = Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row)) for row in rows])
    options = DPOConfig(output_dir="unused", use_cpu=True, report_to=[], max_length=None)
    return DPOTrainer._prepare_dataset(trainer, data, tokenizer, options, "train")


def cases(directory, rows):
    theirs = AutoTokenizer.from_pretrained(directory)
    plain = Tokenizer.from_file(str(directory / "tokenizer.json"))
    end = theirs.eos_token
    out, shifted = [], 0
    for row, made in zip(rows, prepared(theirs, rows), strict=True):
        for reply, ids in ((row[1], made["chosen_ids"]), (row[2], made["rejected_ids"])):
            text = (row[0] + reply).removesuffix(end)
            assert made["prompt_ids"] + ids == plain.encode(text).ids + [theirs.eos_token_id], (directory.name, text)
        shifted += len(made["prompt_ids"]) < len(plain.encode(row[0]).ids)
        out.append(dict(zip(("prompt", "chosen", "rejected"), row)) | {k: made[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")})
    print(f"{directory.name}: {len(out)} pairs, the boundary moves before the prompt's end in {shifted}")
    return {"eos_id": theirs.eos_token_id, "eos_token": end, "boundary_moved": shifted, "pairs": out}


parser = argparse.ArgumentParser()
parser.add_argument("--tokenizer", action="append", required=True, metavar="NAME=DIR")
parser.add_argument("--output", type=Path, default=common.EXPECTED / "tokenization_trl.json")
args = parser.parse_args()
document = {"made_by": common.made_by(
    __file__, "trl", "transformers", "tokenizers", rule="prompt cut where the ids of prompt and prompt+completion diverge, for either"
    " completion; the end-of-sequence text appended to each completion that lacks it")}
for entry in args.tokenizer:
    name, _, directory = entry.partition("=")
    document[name] = cases(Path(directory), pairs() + ODD + (WIDE if name == "gpt2" else []))
common.write(args.output, document)
