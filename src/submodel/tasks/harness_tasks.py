"""lm-evaluation-harness as a library: its own task definitions over given rows, and our models as its `LM`.

Importing this module needs lm_eval; `tasks.harness` imports it when a task runs.
"""

import contextlib
import io
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml  # load() cannot replace a data set
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from submodel.errors import SubmodelError
from submodel.runtime import Loaded, Request, generate_batch
from submodel.tasks.chat import refuse_without_template
from submodel.tasks.journal import Journal
from submodel.tasks.likelihood import Finished, loglikelihoods

_FOLDERS = {
    "winogrande": "winogrande",
    "boolq": "super_glue/boolq",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "openbookqa": "openbookqa",
    "hellaswag": "hellaswag",
    "gsm8k_cot": "gsm8k",
}
_NEW_TOKENS = 256  # HFLM's default
_POSITIONS = 2048  # and its maximum length for a model that does not say


def task_config(name: str) -> dict[str, Any]:
    """lm_eval's definition of a task: its YAML with functions resolved."""
    folder = Path(lm_eval.__file__).parent / "tasks" / _FOLDERS[name]  # to index every folder takes 14 s
    entry = TaskManager(include_defaults=False, include_path=folder).task_index[name]
    assert entry.yaml_path is not None
    return load_yaml(entry.yaml_path)


def build_task(name: str, rows: list[dict[str, Any]], generation: dict[str, Any] | None = None) -> ConfigurableTask:
    """A task of lm_eval over rows in the columns of its data set, few-shot examples as it defines them.

    Args:
        name: lm_eval's name.
        rows: the documents, all of them.
        generation: what to change in its generation_kwargs.

    Raises:
        SubmodelError: rows without the columns it needs.
    """
    config = task_config(name)
    split = "test" if config.get("test_split") else "validation"
    documents = datasets.DatasetDict({split: datasets.Dataset.from_list(rows)})
    splits = {f"{kind}_split": None for kind in ("training", "validation", "test")} | {f"{split}_split": split}
    changed = {"generation_kwargs": {**config["generation_kwargs"], **generation}} if generation else {}
    config = {k: v for k, v in config.items() if k != "tag"} | splits | changed
    try:
        with _quiet():
            return ConfigurableTask(config={**config, "custom_dataset": lambda **_: documents})
    except Exception as error:  # templates raise whatever a missing column makes them raise
        raise SubmodelError(
            f"{name}: the rows do not have the columns of {config['dataset_path']} "
            f"({type(error).__name__}: {error}): give them as the hub has them"
        ) from error


def run_task(
    task: ConfigurableTask,
    model: "HarnessModel",
    journal: Journal,
    *,
    chat: bool = False,
    progress: Callable[[int], Any] = lambda done: None,
) -> tuple[list[dict[str, float]], list[list[Any]]]:
    """Ask a model every question whose answer is not in the journal, and score as lm_eval does.

    Args:
        task: of build_task.
        model: who answers.
        journal: answers by document index; each is kept once the document is finished.
        chat: prompts go through the model's chat template, few-shot examples as turns.
        progress: called with how many documents are finished.

    Returns:
        Of each document, its metrics ("acc", or "exact_match,strict-match" where a task has several filters) and its
        answers (pairs of log-likelihood and greediness, or texts).
    """
    # what lm_eval asks, by document; the answers of some are in the journal
    with _quiet():
        task.build_all_requests(
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            chat_template=model.apply_chat_template if chat else None,
            tokenizer_name=model.tokenizer_name if chat else "",
        )
    documents: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        assert instance.doc_id is not None
        documents[instance.doc_id].append(instance)
    todo = [i for doc, instances in documents.items() if str(doc) not in journal.entries for i in instances]
    remaining = Counter(i.doc_id for i in todo)
    answer_of: dict[tuple[Any, int], Any] = {}
    lock = threading.Lock()

    def finished(index: int, answer: Any) -> None:
        doc, idx = todo[index].doc_id, todo[index].idx
        with lock:
            answer_of[doc, idx] = answer
            remaining[doc] -= 1
            if remaining[doc]:
                return
            journal.add(str(doc), [answer_of[doc, i.idx] for i in documents[doc or 0]])
            done = len(documents) - sum(1 for count in remaining.values() if count)
        progress(done)

    # ask the rest; a document is kept as soon as all its answers are there
    if todo:
        model.finished = finished
        getattr(model, todo[0].request_type)(todo)
    answers = [journal.entries[str(doc)] for doc in documents]
    for instances, given in zip(documents.values(), answers, strict=True):
        for instance, answer in zip(instances, given, strict=True):
            instance.resps = [tuple(answer) if isinstance(answer, list) else answer]
    # score as lm_eval does, once a filter
    with _quiet():
        task.apply_filters()
        metrics: list[dict[str, float]] = [{} for _ in documents]
        for name in task.instances[0].filtered_resps:
            suffix = "" if name == "none" else f",{name}"
            for doc, document in task.doc_iterator():
                results = task.process_results(document, [i.filtered_resps[name] for i in documents[doc]])
                metrics[doc] |= {f"{metric}{suffix}": float(value) for metric, value in results.items()}
    return metrics, answers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and warnings of lm_eval's about its own definitions; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


class HarnessModel(TemplateLM):
    """A loaded model as lm_eval sees it; it tokenises, truncates and cuts as lm_eval's `HFLM` does.

    `finished` is called from any thread with (index of the request, its answer) as answers come.
    """

    backend = "causal"

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int | None = None,
        seed: int = 0,
        finished: Finished = lambda index, answer: None,
    ):
        super().__init__()
        self.loaded, self.slots, self.seed, self.finished = loaded, slots, seed, finished
        self.tokenizer: Any = loaded.tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def max_length(self) -> int:
        return max_length(self.loaded)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation. Raises SubmodelError for a tokenizer without a template."""
        refuse_without_template(self.loaded)
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; a text that begins with the first token's text does not get it twice."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode([self.prefix_token_id])):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **options)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return loglikelihoods(self.loaded.model, pairs, self.max_length, self.finished)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        sums = []
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            pairs: list[Any] = [make_disjoint_window(window) for window in windows]
            scores = loglikelihoods(self.loaded.model, pairs, self.max_length, lambda index, answer: None)
            sums.append(sum(value for value, _ in scores))
            self.finished(index, sums[-1])
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Texts, cut before the first of `until` or the end-of-text token."""
        eos = self.tokenizer.decode([self.eot_token_id])
        batch: list[Request] = []
        stops: list[list[str]] = []
        for index, request in enumerate(requests):
            arguments: tuple[Any, ...] = request.args
            prompt, options = arguments[0], dict[str, Any](normalize_gen_kwargs(arguments[1], _NEW_TOKENS))
            tokens = options["max_gen_toks"]
            room = self.max_length - tokens
            if room <= 0:
                raise SubmodelError(
                    f"{self.loaded.reference}: {tokens} new tokens do not leave room for a prompt in its "
                    f"{self.max_length} positions: give fewer with --max-tokens"
                )
            stops.append(handle_stop_sequences(options["until"], eos))
            sampling = bool(options["do_sample"])
            batch.append(
                Request(
                    key=str(index),
                    prompt=tuple(self._encode_prompt(prompt)[-room:]),
                    max_tokens=tokens,
                    stops=tuple(stops[-1]),
                    seeds=(self.seed + (index if request.doc_id is None else request.doc_id),),
                    temperature=float(options["temperature"] or 1.0) if sampling else 0.0,
                    top_p=float(options.get("top_p", 1.0)) if sampling else 1.0,
                    top_k=int(options.get("top_k", 0)) if sampling else 0,
                )
            )
        texts = [""] * len(batch)
        for written in generate_batch(self.loaded, batch, slots=self.slots):
            index = int(written.key)
            texts[index] = self._text(written.tokens, stops[index])
            self.finished(index, texts[index])
        return texts

    def _encode_prompt(self, prompt: str) -> list[int]:
        bos = self.tokenizer.bos_token
        return self.tokenizer.encode(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))

    def _text(self, tokens: Sequence[int], stops: list[str]) -> str:
        """HFLM's text of new tokens: a stop that is a special token ends it although it leaves no text."""
        ends = {self.tokenizer.convert_tokens_to_ids(stop) for stop in stops} & set(self.tokenizer.all_special_ids)
        cut = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        return postprocess_generated_text(self.tokenizer.decode(tokens[:cut], skip_special_tokens=True), stops, None)


def max_length(loaded: Loaded) -> int:
    """Positions of a model, as HFLM finds them."""
    config = getattr(loaded.model.config, "text_config", None) or loaded.model.config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    given = getattr(loaded.tokenizer, "model_max_length", None)
    return int(given) if given is not None and given < 1e9 else _POSITIONS
