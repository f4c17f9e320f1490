"""What the pocket model's twenty-six classes are called in words.

The words are in ``data/sounds/vocabulary.json``.
`phrases` become training captions. `paraphrases` never do: they ask whether a prompt in other words
is understood as well. A second list of such prompts, ``held_out.json``, was written by somebody who
knew only the classes' names; nothing but the model's report opens it.
"""

import json
from dataclasses import dataclass

from helpers.data import data_path


@dataclass(frozen=True)
class Words:
    """The wordings of one class.

    Attributes
    ----------
    plain : str
        The plain prompt, which is also a training phrase.
    phrases : tuple of str
        Training wordings, each a noun or gerund phrase that fits "X followed by Y".
    paraphrases : tuple of str
        Held-out wordings, never used as captions.
    """

    plain: str
    phrases: tuple[str, ...]
    paraphrases: tuple[str, ...]


_TEXT = data_path("sounds", "vocabulary.json").read_text(encoding="utf-8")
VOCABULARY = {
    label: Words(words["phrases"][0], tuple(words["phrases"]), tuple(words["paraphrases"]))
    for label, words in json.loads(_TEXT).items()
}
LABELS = tuple(VOCABULARY)
