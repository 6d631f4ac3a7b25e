"""DOMAINS: data sets to calibrate on by name, and ALIASES: what a person types.

Every set of the paper's Table II is here as the paper names it. Where its published code read another one, that one is
here too and says so (https://github.com/LaP19/Building-Domain-Specific-Sub-Models-from-Large-Language-Models-using-Pruning
at d264067, lib/data.py; revisions are those of its cache). Texts follow the columns and templates of that code.
HumanEval and MultiPL-E are not here: they are for evaluation only.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from submodel.calibration.sets import NamedSet

Row = dict[str, Any]
Template = str | Callable[[Row], str]
"""A row -> text: columns in braces, or a function."""


@dataclass(frozen=True)
class DataSet:
    """One named set.

    Attributes:
        source: where its rows are.
        text: a row -> its text; of a stand-in with other columns `stand_in_text`.
        fraction: the part of its rows, from the start, that calibration may read.
    """

    source: NamedSet
    text: Template
    stand_in_text: Template | None = None
    fraction: float = 1.0


def _options(between: str) -> Callable[[Row], str]:
    def options(row: Row) -> str:
        return between.join(f"{k}: {v}" for k, v in zip(row["choices"]["label"], row["choices"]["text"], strict=True))

    return options


def _openbookqa(row: Row) -> str:
    return f"Choose the right option: {row['question_stem']}#Choices: {_options(', ')(row)}"


def _commonsenseqa(row: Row) -> str:
    request = "Choose the right option related to the following sentence."
    return f"{request} {row['question']} {_options(', ')(row)}"


def _hellaswag(row: Row) -> str:
    endings = " ".join(f"{number}: {ending}" for number, ending in enumerate(row["endings"], start=1))
    return f"Choose the most appropriate ending: {row['ctx']}###Options: {endings}"


def _in_brackets(request: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: f"[INST]\n{request(row)}\n[/INST]\n"


def _first_solution(row: Row) -> str:
    return next(iter(json.loads(row.get("solutions") or "[]")), "")


def _function(language: str) -> DataSet:
    named = NamedSet(
        f"code_search_net/{language}",
        "code-search-net/code_search_net",
        language,
        "train",
        "bd0cf265c1ad74dcbcedbabb9e6ebc98a1a7fbe4",
        stand_in="documented functions of packages from registries, in CodeSearchNet's columns",
    )
    return DataSet(named, "{whole_func_string}")


_FUNCTION = "{whole_func_string}"
_PAIR = "#Text: {translation[en]} #Translation: {translation[fr]}"

DOMAINS: dict[str, DataSet] = {
    "python_alpaca": DataSet(
        NamedSet(
            "python_code_instructions",
            "iamtarun/python_code_instructions_18k_alpaca",
            None,
            "train",
            "7cae181e29701a8663a07a3ea43c8e105b663ba1",
            stand_in="1,608 Python rows of Code Alpaca, the family that the set was filtered from",
        ),
        "{prompt}",
    ),
    "apps": DataSet(  # problems with their first solution
        NamedSet(
            "apps", "codeparrot/apps", "all", "train", "21e74ddf8de1a21436da12e3e653065c5213e9d1", files="train.jsonl"
        ),
        lambda row: f"{row['question']}\n{_first_solution(row)}",
    ),
    "apps_test": DataSet(  # what the code read: the test split's solutions, a JSON list as it stands
        NamedSet(
            "apps", "codeparrot/apps", "all", "test", "21e74ddf8de1a21436da12e3e653065c5213e9d1", files="test.jsonl"
        ),
        "{solutions}",
    ),
    "github_python": DataSet(
        NamedSet(
            "github_python",
            "thomwolf/github-python",
            None,
            "train",
            "e9120c87cf9ab145f6fa35529b94ad5e39f27564",
            stand_in="497 source files of seven PyPI packages",
        ),
        "{content}",
    ),
    "openbookqa": DataSet(  # as the code has it, without the answer
        NamedSet("openbookqa/main", "allenai/openbookqa", "main", "train", "388097ea7776314e93a529163e0fea805b8a6454"),
        _in_brackets(_openbookqa),
    ),
    "hellaswag": DataSet(  # likewise
        NamedSet(
            "hellaswag",
            "Rowan/hellaswag",
            None,
            "train",
            "6002345709e0801764318f06bf06ce1e7d1a1fe3",
            stored_split="calibration",
            stand_in="1,500 cleaned rows of HellaSwag's validation split, apart from those that are evaluated on",
        ),
        _in_brackets(_hellaswag),
    ),
    "commonsenseqa": DataSet(  # likewise
        NamedSet("commonsense_qa", "tau/commonsense_qa", None, "train", "94630fe30dad47192a8546eb75f094926d47e155"),
        _in_brackets(_commonsenseqa),
    ),
    "wmt14": DataSet(
        NamedSet(
            "tico19_fr_en",
            "wmt/wmt14",
            "fr-en",
            "train",
            stand_in="1,972 professionally translated sentences of TICO-19",
        ),
        _PAIR,
    ),
    "croissant": DataSet(  # the paper's [50]
        NamedSet(
            "croissant", "croissantllm/croissant_dataset_no_web_data", None, "train", files="aligned_36b/train/*.arrow"
        ),
        "{text}",
    ),
    "song_translation": DataSet(  # what the code read for it
        NamedSet(
            "song_translation",
            "Nicolas-BZRD/english_french_songs_lyrics_translation_original",
            None,
            "train",
            "f2b64a358132305095e602ce11819d834344d90f",
        ),
        "#Text: {original_version} #Translation: {french_version}",
    ),
    "opus_books": DataSet(  # the first half; the second is what the paper evaluates on
        NamedSet(
            "debian_docs_fr_en",
            "Helsinki-NLP/opus_books",
            "en-fr",
            "train",
            "1f9f6191d0e91a3c539c2595e2fe48fc1420de9b",
            stand_in="2,199 paragraphs of Debian's manuals",
        ),
        _PAIR,
        fraction=0.5,
    ),
    "math_qa": DataSet(  # the paper's [44], from the copy without a script
        NamedSet(
            "math_qa",
            "regisss/math_qa",
            None,
            "train",
            stored_split="validation",
            stand_in="MathQA's validation split",
        ),
        "{Problem}\n{options}\n{Rationale}",
    ),
    "metamath_qa": DataSet(  # what the code read for it
        NamedSet("metamath_qa", "meta-math/MetaMathQA", None, "train", "aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18"),
        "{original_question}\n{response}",
    ),
    "math_instruct": DataSet(
        NamedSet(
            "math_instruct_like",
            "TIGER-Lab/MathInstruct",
            None,
            "train",
            "360fd8fe1b090553caf0e6271b8e32fc093a5d83",
            stand_in="2,196 machine-written rationales of LLM-Adapters, some of them wrong",
        ),
        "{instruction}\n{output}",
    ),
    "math_orca": DataSet(
        NamedSet(
            "math_orca",
            "microsoft/orca-math-word-problems-200k",
            None,
            "train",
            "29255d1770cc4eac66e5e7fa378cba542c026350",
        ),
        "{question}\n{answer}",
    ),
    **{
        f"code_text_{language}": DataSet(  # what the code read for CodeSearchNet
            NamedSet(
                f"code_search_net/{language}",
                f"semeru/code-text-{language}",
                None,
                "train",
                revision,
                stand_in="documented functions of packages from registries, in CodeSearchNet's columns",
            ),
            "{code}",
            stand_in_text=_FUNCTION,
        )
        for language, revision in (
            ("java", "f73aa95d9ea6bfd39fd016e493a5591b5050acff"),
            ("javascript", "e63b00e6cedd664bb28f057f9518cd26604b105f"),
        )
    },
    "cpp_dataset": DataSet(
        NamedSet(
            "code_search_net/cpp",
            "nguyentruong-ins/nhlcoding_cleaned_cpp_dataset",
            None,
            "train",
            "037bf868128470e210dba3c4984faa8a055acff9",
            stand_in="1,099 documented functions of six C++ packages",
        ),
        "{solution}",
        stand_in_text=_FUNCTION,
    ),
    **{
        f"code_search_net_{language}": _function(language)
        for language in ("python", "java", "javascript", "go", "ruby", "php")
    },
    "gsm8k": DataSet(
        NamedSet("gsm8k/main", "openai/gsm8k", "main", "train", "740312add88f781978c0658806c59bc2815b9866"),
        "{question}\n{answer}",
    ),
    "c4": DataSet(
        NamedSet(
            "c4",
            "allenai/c4",
            "en",
            "train",
            "1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
            stand_in="1,000 documents of C4, cut to about 1,200 characters",
        ),
        "{text}",
    ),
    "wikitext2": DataSet(
        NamedSet(
            "wikitext/wikitext-2-v1",
            "Salesforce/wikitext",
            "wikitext-2-raw-v1",
            "train",
            "b08601e04326c79dfdd32d625aee71d232d685c3",
            stored_split="validation",
            stand_in="WikiText-2's validation split, tokenised, with <unk>",
        ),
        "{text}",
    ),
}

ALIASES: dict[str, str] = {
    "python": "code_search_net_python",
    "java": "code_search_net_java",
    "cpp": "cpp_dataset",
    "javascript": "code_search_net_javascript",
    "math": "gsm8k",
    "common-sense": "openbookqa",
    "translation": "wmt14",
    "english": "c4",
}
