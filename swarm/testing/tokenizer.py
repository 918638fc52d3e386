"""A small real tokenizer, made on the spot: byte-level BPE with the ChatML control tokens.

For tests that need the behaviour of a real `tokenizer.json` and not the vocabulary of any model.
"""

from __future__ import annotations

from pathlib import Path

from swarm.window.tokens import FileTokenizer

CONTROLS = ("<|im_start|>", "<|im_end|>")
_TEXT = '''
    def __init__(self, name: str, value: int = 0) -> None:
        """Return the value of the name, or raise an exception if there is none."""
        if self.value is None:
            raise ValueError("the value of the name is not there")
        for item in self.items:
            return item.value

The agents read the text and write what they found to the blackboard. Each claim has its source.
f <| g <| h <| i <| j
'''


def small_tokenizer(folder: Path) -> FileTokenizer:
    """Writes `tokenizer.json` into `folder`, always the same one, and loads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(CONTROLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    return FileTokenizer(file)
