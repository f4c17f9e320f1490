"""What each base model's own tokenizer can read of a prompt."""

import warnings

import pytest
from published_audioldm import write_tiny_audioldm, write_tiny_audioldm2
from published_layouts import write_tiny_text_encoder
from tiny import tiny_model

from helpers.models import audioldm, audioldm2
from helpers.models.minilm import load_minilm
from helpers.models.prompts import PromptError, check_prompts
from helpers.models.published import load_tokenizer
from helpers.models.tango import T5Text

INVISIBLE = ["", " ", "\t\n", "\u200b", "\u200b\u200d\ufeff", "\u00a0\u2003", "\x00\x1b", "\u2060"]
WITHOUT_WORDS = ["🔔", "🐶", "𒀀", "[UNK]", "[PAD] [SEP]"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Text encoders by base model, with their own tokenizers."""
    folder = tmp_path_factory.mktemp("encoders")
    t5 = load_tokenizer(write_tiny_text_encoder(folder / "t5"))
    return {
        "pocket": load_minilm(),
        "tango": T5Text(t5, None),
        "audioldm": audioldm.FILES.model(write_tiny_audioldm(folder / "audioldm")).text_encoder,
        "audioldm2": audioldm2.FILES.model(write_tiny_audioldm2(folder / "audioldm2")).text_encoder,
    }


def told(prompt, encoder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_prompts([prompt], encoder)
    return [str(warning.message) for warning in caught]


NAMES = pytest.mark.parametrize("name", ["pocket", "tango", "audioldm", "audioldm2"])


@NAMES
@pytest.mark.parametrize("prompt", INVISIBLE)
def test_nothing_visible_is_empty(encoders, name, prompt):
    with pytest.raises(PromptError, match="The prompt is empty: describe the sound"):
        check_prompts(["a dog barking", prompt], encoders[name])


@NAMES
@pytest.mark.parametrize("prompt", ["🔔", "狗吠", "𒀀"])
def test_what_no_token_stands_for_is_refused(encoders, name, prompt):
    if name == "pocket" and prompt == "狗吠":
        prompt = "狗"  # its vocabulary holds a few such signs
    with pytest.raises(PromptError, match="can read nothing of the prompt.*English words"):
        check_prompts([prompt], encoders[name])


@pytest.mark.parametrize("prompt", WITHOUT_WORDS)
def test_the_pocket_model_refuses_what_embeds_alike(prompt):
    with pytest.raises(PromptError, match="can read nothing"):
        check_prompts([prompt], load_minilm())


@NAMES
@pytest.mark.parametrize("prompt", ["a dog barking", "rain falling on the roof"])
def test_readable_prompts_pass_in_silence(encoders, name, prompt):
    assert told(prompt, encoders[name]) == []


@pytest.mark.parametrize("name", ["pocket", "tango", "audioldm2"])
def test_a_part_that_cannot_be_read_is_named(encoders, name):
    messages = told("a dog 🔔 barking", encoders[name])
    assert any("🔔" in message and "use English words" in message for message in messages)


@pytest.mark.parametrize(
    ("words", "kept"), [(30, None), (31, 30), (500, 30)], ids=["30", "31", "500"]
)
def test_what_is_cut_is_told_with_the_words_kept(words, kept):
    """MiniLM reads 32 tokens, two of which mark the beginning and the end."""
    messages = told(" ".join(["dog", "bark"] * 250)[: words * 9 // 2], load_minilm())
    if kept is None:
        assert messages == []
    else:
        assert messages == [
            f"The prompt is too long: the text encoder reads its first {kept} words, up to "
            "“…dog bark dog bark dog bark”; shorten it."
        ]


def test_a_word_that_is_cut_in_two_is_not_kept():
    encoder = load_minilm()
    prompt = "dog " * 29 + "unfathomableness"
    pieces = len(encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    assert pieces > 31
    [message] = told(prompt, encoder)
    assert "its first 29 words" in message


@pytest.mark.parametrize("name", ["tango", "audioldm", "audioldm2"])
def test_the_others_read_what_their_tokenizers_say(encoders, name):
    encoder = encoders[name]
    limits = [
        part.tokenizer.model_max_length
        for part in (vars(encoder) | {"": encoder}).values()
        if hasattr(part, "tokenizer")
    ]
    [message, *_] = told("a dog barking " * 2 * max(limits), encoder)
    assert "The prompt is too long" in message


@pytest.mark.parametrize("prompt", ["a \udcff dog", "dog \ud83d"])
def test_bytes_that_are_no_text_are_refused(prompt):
    with pytest.raises(PromptError, match="holds bytes that are no text: type it again") as error:
        check_prompts([prompt], load_minilm())
    str(error.value).encode()


@pytest.mark.parametrize("prompt", [None, 3, ["a"], b"rain"])
def test_what_is_no_text_is_refused(prompt):
    with pytest.raises(PromptError, match="The prompt is empty"):
        check_prompts([prompt], None)


def test_every_model_checks_before_it_embeds():
    model = tiny_model()
    model.text_encoder = load_minilm()
    with pytest.raises(PromptError, match="can read nothing"):
        model.embed_text("🔔")
    with pytest.warns(UserWarning, match="reads its first 30 words"):
        model.embed_text("dog " * 40)
    assert model.unconditional().batch_size == 1
