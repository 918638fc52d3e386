"""Choosing weights, chat templates, grammars and the scripted model: all without weights in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.errors import ModelError, SwarmError, WeightsError
from swarm.models.choose import create_model, create_tokenizer
from swarm.models.interface import Completion, Model, Request, Sampling
from swarm.models.scripted import answer_raises, raises
from swarm.models.template import folder_template, split_template
from swarm.models.weights import Served, folder_digest, needed_first, sources, tokenizer_folder
from swarm.protocol import Part
from swarm.spec import ModelSpec
from swarm.window.compose import compose
from swarm.window.pack import CHATML, ENDPOINT
from swarm.window.tokens import ApproximateTokenizer

PASSAGE = '''class Queue:
    def get(self):
        """Get."""
        if self.empty():
            raise QueueEmpty
        try:
            return self._get()
        except OSError as problem:
            raise problem

    async def put(self, item):
        def inner():
            raise errors.QueueFull("no room") from None
        raise ValueError(f"a very long message that goes on and on and on and on: {item}")
'''
READER = (
    "Question: Which function raises what?\n"
    "Columns: function = its name; exception = the exception; quote = words copied from the passage\n"
    "Passage: asyncio/queues.py > class Queue\n"
)


def scripted(name: str) -> Model:
    return create_model(ModelSpec(engine="scripted", name=name))


def request(text: str, model: Model, key: str = "k") -> Request:
    parts = (Part("question", text),)
    prompt = compose("reader", "You read.", parts, model.template, model.tokenizer, 10_000)
    return Request(key, prompt, Sampling(64), "reader")


def ask(model: Model, text: str, key: str = "k") -> Completion:
    return asyncio.run(model.complete(request(text, model, key)))


# ---- the scripted model ----


def test_the_scripted_reader_finds_raises_with_their_functions() -> None:
    rows = json.loads(answer_raises(READER + PASSAGE))
    assert rows == [
        ["Queue.get", "QueueEmpty", "raise QueueEmpty"],
        ["Queue.put.inner", "QueueFull", 'raise errors.QueueFull("no room") from None'],
        ["Queue.put", "ValueError", 'raise ValueError(f"a very long message that goes on and on a'],
    ]
    assert all(row[-1] in PASSAGE and len(row[-1]) <= 60 for row in rows)


@pytest.mark.parametrize(
    ("breadcrumb", "passage", "function"),
    [
        ("a.py > Queue.get", "def get(self):\n    raise Full", "Queue.get"),
        ("a.py > Queue.get (part 2)", "    raise Full", "Queue.get"),
        ("a.py > Queue.get", "def get(self):\n    def inner():\n        raise Full", "Queue.get.inner"),
        ("a.py", "def get(self):\n    raise Full", "get"),
        ("a.py", "raise Full", "<module>"),
    ],
)
def test_the_scripted_reader_names_the_function(breadcrumb: str, passage: str, function: str) -> None:
    assert [found[0] for found in raises(breadcrumb, passage)] == [function]


def test_the_scripted_reader_abstains() -> None:
    assert answer_raises(READER + "x = 1  # never raise ValueError here\nraise\n") == "[]"


def test_the_scripted_verifier_asks_for_every_value() -> None:
    prompt = (
        "Question: q\nPassage: asyncio/queues.py > Queue.get\ndef get(self):\n    raise QueueEmpty\n\n"
        "Claim: function = Queue.get; exception = {}\nQuote: raise QueueEmpty\n"
        "Does the passage support the claim?"
    )
    assert answer_raises(prompt.format("QueueEmpty")) == '"yes"'
    assert answer_raises(prompt.format("QueueFull")) == '"no"'


def test_the_scripted_planner_and_writer_follow_their_contracts() -> None:
    assert answer_raises("Question: q\nColumns: a = b; quote = c\nInput: 3 documents, 9 passages, such as a.py\n") == (
        '["search","set"]'
    )
    written = answer_raises(
        "Question: q\nFindings:\n[1] function = f; exception = E\n[2] function = g; exception = E\n"
    )
    assert json.loads(written) == [
        ["The function is f and the exception is E.", 1],
        ["The function is g and the exception is E.", 2],
    ]


def test_the_scripted_model_says_what_it_is_and_counts() -> None:
    model = scripted("echo")
    completion = ask(model, "first line\nlast line")
    assert (completion.text, completion.finish) == ("last line", "stop")
    assert completion.weights == model.weights("reader") == "scripted:echo"
    assert completion.tokens_in == request("first line\nlast line", model).prompt.tokens
    assert completion.tokens_out == model.tokenizer.count("last line")


def test_flaky_calls_fail_once_and_then_answer() -> None:
    model = scripted("null+flaky:2")
    assert ask(model, "x", "a").text == "[]"
    with pytest.raises(ModelError, match="on purpose") as failed:
        ask(model, "x", "b")
    assert failed.value.retryable and failed.value.kind == "broken"
    assert ask(model, "x", "b").text == ask(model, "x", "a").text == "[]"


@pytest.mark.parametrize("name", ["embedded", "raises+fast:3", "null+slow", "null+flaky:x"])
def test_an_unknown_script_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(ModelError, match=r"there is no script[\s\S]*raises, first-line, echo, null") as refused:
        scripted(name)
    assert not refused.value.retryable


# ---- chat templates ----

SMOLLM = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ENDS_WITH_EOS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


def rendered(source: str) -> str:
    template = split_template(source, "model", "<s>", "</s>")
    tokenizer = ApproximateTokenizer()
    prompt = compose("reader", "SYS", (Part("question", "USE"), Part("span", "R")), template, tokenizer, 999)
    return "".join(text for text, _ in template.pieces(prompt.segments))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            SMOLLM,
            "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA3,
            "<s><|start_header_id|>system<|end_header_id|>\n\nSYS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "USER<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            THINKING,
            "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n<|im_start|>assistant\n"
            "<think>\n\n</think>\n\n",
        ),
        (ENDS_WITH_EOS, "<|system|>\nSYS<|end|>\n<|user|>\nUSER<|end|>\n<|assistant|>\n"),
    ],
)
def test_a_template_is_split_into_pieces_that_render_the_same(source: str, text: str) -> None:
    assert rendered(source) == text


def test_chatml_is_split_into_what_the_embedded_model_uses() -> None:
    template = split_template(SMOLLM, "model")
    assert (template.opening, template.closing) == (CHATML.opening, CHATML.closing)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}", "no system"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves out"),
        (
            "{% for m in messages %}{{ loop.index if loop.index > 1 }}{{ m.content }}{% endfor %}!",
            "later",
        ),
        ("{% for m in messages %}{{ m.content }}", "refuses"),
    ],
)
def test_a_template_that_does_not_split_says_what_to_do(source: str, complaint: str) -> None:
    with pytest.raises(WeightsError, match=f"{complaint}[\\s\\S]*engine: openai"):
        split_template(source, "model")


def test_the_template_is_found_in_either_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no chat template"):
        folder_template(tmp_path)
    settings = {"chat_template": LLAMA3, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path).opening["system"].startswith("<s><|start_header_id|>")
    (tmp_path / "chat_template.jinja").write_text(SMOLLM)
    assert folder_template(tmp_path).opening == CHATML.opening


# ---- which weights answer ----


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    yield folder


def test_channels_resolve_to_adapters(adapter: Path) -> None:
    spec = ModelSpec(name="some/model", weights={"reader": str(adapter)})
    found = sources(spec, {"reader": "", "writer": "", "": "", "judge": str(adapter)})
    assert found == {"reader": adapter, "writer": None, "": None, "judge": adapter}
    assert sources(spec, {}) == {"": None, "reader": adapter}
    assert sources(spec, {"writer": "base"}) == {"": None, "writer": None}


def test_the_base_alone_is_loaded_when_it_is_asked_for() -> None:
    base, reader = Served(Path("base"), "1"), Served(Path("reader"), "2")
    assert needed_first({"": base, "reader": reader}) == [Path("reader")]
    assert needed_first({"": base, "reader": reader, "judge": base}) == [Path("reader"), Path("base")]
    assert needed_first({"": base}) == [Path("base")]


@pytest.mark.parametrize(("source", "cure"), [("shipped:nothing", "make reader"), ("/no/such/folder", "LoRA")])
def test_a_missing_adapter_names_channel_and_cure(source: str, cure: str) -> None:
    with pytest.raises(WeightsError, match=rf"model\.weights\.reader: [\s\S]*{cure}"):
        sources(ModelSpec(weights={"reader": source}), {"reader": ""})


def test_a_folder_has_the_digest_of_its_content(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no weights"):
        folder_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("not part of it")
    assert folder_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert folder_digest(tmp_path) != before


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(WeightsError, match=r"model\.name: there is no folder"):
        tokenizer_folder("no such model!")


def test_tokenizers_are_chosen_without_weights() -> None:
    tokenizer, template = create_tokenizer(ModelSpec(engine="openai", name="any", url="http://127.0.0.1:1/v1"))
    assert not tokenizer.exact and template is ENDPOINT
    tokenizer, template = create_tokenizer(ModelSpec(engine="scripted", name="null"))
    assert not tokenizer.exact and template is CHATML


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    spec = ModelSpec(engine="scripted", name="null", tokenizer=str(tmp_path))
    with pytest.raises(SwarmError, match=r"tokenizer\.json"):
        create_tokenizer(spec)
