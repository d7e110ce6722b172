"""Runs EleutherAI's lm-evaluation-harness on three built-in tasks and writes its numbers.

    python tools/lm_eval/make.py SHARED crates/evaluate/tests/lm_eval.json

SHARED is the folder of fixtures (assets/eval, assets/weights). Needs lm_eval, transformers and torch. Prompts and choices are the
templates of the built-in tasks, rendered by the harness itself. Of each file the first rows are taken whose texts transformers and the
`tokenizers` library turn into the same ids, and in which the ids of the prompt alone begin those of prompt and continuation, so that the
harness's rule for the boundary and that of candlewick agree. What is written are numbers alone: which rows, the log-likelihood of each
choice, and the harness's metrics.
"""

import csv
import gzip
import io
import json
import pathlib
import sys
import tempfile
import tomllib

import jinja2
import lm_eval
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer

ROWS = 150
# This tokenizer has tokens that end with a space, such as ":▁": after a line break the tokens of the prompt stay what they are.
DELIMITER = "\n"
LONGEST = 500
TASKS = {
    "truthfulqa_mc1": ("TruthfulQA.csv.gz", None),
    "bbq": ("bbq_Religion.jsonl.gz", None),
    "ethics_utilitarianism": ("ethics/util_test.csv.gz", ["better", "worse"]),
}
METRICS = ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]


def read(path, header):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    if path.name.startswith("bbq"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return list(csv.DictReader(io.StringIO(text), fieldnames=header))


def templates(task):
    """Prompt, a template of the list of choices, and the right choice. The harness renders no templates inside of a list."""
    listed = lambda each: "{{ [" + ", ".join(one.removeprefix("{{").removesuffix("}}") for one in each) + "] | tojson }}"
    if task["kind"] == "pair":
        return task["prompt"], listed([task["better"], task["worse"]]), "0"
    return task["prompt"], task.get("choices_list") or listed(task["choices"]), task["answer"]


def rendered(row, prompt, choices):
    """What the harness will make of the templates."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    render = lambda source: environment.from_string(source).render(**row)
    return render(prompt), json.loads(render(choices))


def agree(slow, fast, prompt, texts):
    """Whether both libraries, and both rules of the boundary, give the same tokens."""
    own = fast.encode(prompt).ids
    for text in texts:
        for whole in [prompt + DELIMITER + text, DELIMITER + text]:
            ids = fast.encode(whole).ids
            if slow.encode(whole) != ids or len(ids) > LONGEST:
                return False
        if fast.encode(prompt + DELIMITER + text).ids[: len(own)] != own:
            return False
    return slow.encode(prompt) == own


def main(shared, out):
    here = pathlib.Path(__file__).resolve().parents[2]
    model = shared / "assets/weights/tinystories-656k"
    # As tokenizer.json has it: AutoTokenizer rebuilds this one and drops characters that it does not know.
    slow = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"), bos_token="<|start_story|>", eos_token="<|end_story|>"
    )
    fast = Tokenizer.from_file(str(model / "tokenizer.json"))
    found = {
        "made_by": "tools/lm_eval/make.py",
        "lm_eval": lm_eval.__version__,
        "transformers": transformers.__version__,
        "model": "tinystories-656k",
        "tasks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, (file, header) in TASKS.items():
            task = tomllib.loads((here / f"crates/evaluate/tasks/{name}.toml").read_text(encoding="utf-8"))
            prompt, choices, answer = templates(task)
            kept, rows = [], []
            for number, row in enumerate(read(shared / "assets/eval" / file, header)):
                row = {**row, "row": dict(row), "number": number}
                if agree(slow, fast, *rendered(row, prompt, choices)):
                    kept.append(number)
                    rows.append(row)
                if len(kept) == ROWS:
                    break
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            config = {
                "task": f"candlewick_{name}",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": prompt,
                "doc_to_choice": choices,
                "doc_to_target": answer,
                "target_delimiter": DELIMITER,
                "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS],
            }
            # YAML reads JSON.
            (folder / f"{name}.yaml").write_text(json.dumps(config), encoding="utf-8")
            found["tasks"][name] = {"file": f"assets/eval/{file}", "rows": kept}
        language_model = HFLM(
            pretrained=str(model), tokenizer=slow, device="cpu", dtype="float32", batch_size=8, add_bos_token=True
        )
        results = lm_eval.simple_evaluate(
            model=language_model,
            tasks=[f"candlewick_{name}" for name in TASKS],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
        for name, written in found["tasks"].items():
            samples = sorted(results["samples"][f"candlewick_{name}"], key=lambda sample: sample["doc_id"])
            written["log_likelihoods"] = [[float(resp[0]) for resp in sample["filtered_resps"]] for sample in samples]
            # Responses under the empty prompt, which mutual information asks for, follow those of the choices.
            written["metrics"] = {
                metric: results["results"][f"candlewick_{name}"][f"{metric},none"] for metric in METRICS
            }
    out.write_text(json.dumps(found) + "\n", encoding="utf-8")
    for name, written in found["tasks"].items():
        print(name, len(written["rows"]), written["metrics"])


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
