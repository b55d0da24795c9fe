"""A tokenizer for random models, whose vocabulary means nothing."""


class Tokenizer:
    """Letters as tokens."""

    all_special_ids = (0, 1, 2)
    bos_token_id, eos_token_id, cls_token_id, chat_template = 1, 2, None, None
    size, letters = 32, 29

    def get_vocab(self):
        return {chr(97 + i): i for i in range(self.size)}

    def __call__(self, text, **_):
        return {"input_ids": [3 + ord(c) % self.letters for c in text]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(97 + i) for i in ids if not (skip_special_tokens and i in self.all_special_ids))
