"""Captions of training scenes, in varied wording.

The words are the vocabulary's, the sentences around them are in ``data/sounds/captions.json``.
"""

import json
from collections.abc import Sequence

import numpy as np

from helpers.data import data_path
from helpers.sounds.vocabulary import LABELS, VOCABULARY

RELATIONS = ("background", "sequence", "mixture")
# How phrases are put into sentences; a phrase of what is REPEATED may be told how often.
_CAPTIONS = json.loads(data_path("sounds", "captions.json").read_text(encoding="utf-8"))
SINGLE, FAR, TIMES = _CAPTIONS["single"], _CAPTIONS["far"], _CAPTIONS["times"]
REPEATED, FIRST_TWO, THIRD = _CAPTIONS["repeated"], _CAPTIONS["first_two"], _CAPTIONS["third"]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _phrase(label: str, rng: np.random.Generator) -> str:
    if label not in VOCABULARY:
        raise ValueError(f"No sound is called {label!r}; choose one of {', '.join(LABELS)}.")
    return _pick(VOCABULARY[label].phrases, rng)


def _punctuate(caption: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        caption = caption[0].upper() + caption[1:]
    return caption + "." if rng.random() < 0.5 else caption


def single_caption(label: str, rng: np.random.Generator, far: bool = False) -> str:
    """Caption one sound in varied wording.

    Parameters
    ----------
    label : str
        One of `LABELS`.
    rng : numpy.random.Generator
        Picks phrase, template, first letter and full stop.
    far : bool
        Say that the sound is "in the distance".

    Returns
    -------
    str
        A caption such as "The sound of a dog barking".

    Raises
    ------
    ValueError
        If the label is unknown.
    """
    phrase = _phrase(label, rng)
    if label in REPEATED and phrase.endswith("ing") and rng.random() < 0.25:
        phrase = f"{phrase} {_pick(TIMES, rng)}"
    return _punctuate((FAR if far else _pick(SINGLE, rng)).format(phrase), rng)


def compose(labels: Sequence[str], relation: str, rng: np.random.Generator) -> str:
    """Caption a scene of one to three sounds.

    Parameters
    ----------
    labels : sequence of str
        One to three of `LABELS`: the foreground first, or in order of time.
    relation : str
        "background" (X with Y in the background), "sequence" (X followed by Y) or "mixture"
        (X while Y). A single label is captioned by `single_caption` whatever the relation.
    rng : numpy.random.Generator
        Picks phrases, template, first letter and full stop.

    Returns
    -------
    str
        A caption such as "A siren with rain falling in the background."

    Raises
    ------
    ValueError
        If a label or the relation is unknown, or there are not one to three labels.
    """
    if relation not in RELATIONS:
        raise ValueError(f"No relation is called {relation!r}; choose one of {RELATIONS}.")
    if not 1 <= len(labels) <= 3:
        raise ValueError(f"A caption names one to three sounds, not {len(labels)}.")
    if len(labels) == 1:
        return single_caption(labels[0], rng)
    phrases = [_phrase(label, rng) for label in labels]
    joint = _pick(THIRD[relation], rng)
    if relation == "background":
        first, behind = phrases[0], phrases[1:]
        scene = (first, behind[0] if len(behind) == 1 else joint.format(*behind))
        return _punctuate(_pick(FIRST_TWO[relation], rng).format(*scene), rng)
    caption = _pick(FIRST_TWO[relation], rng).format(*phrases[:2])
    for phrase in phrases[2:]:
        caption = joint.format(caption, phrase)
    return _punctuate(caption, rng)
