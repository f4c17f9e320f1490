"""The foley synthesiser sounds like what it says, and the vocabulary covers it."""

import json
import re

import numpy as np
import pytest

from helpers.audio import SAMPLE_RATE
from helpers.data import DATA
from helpers.models.minilm import load_minilm
from helpers.sounds import foley, vocabulary
from tools.pocket import captions
from tools.pocket.rooms import place_at_distance, reverberate

SECONDS = 3.0
STRUCK = (
    "door_knock",
    "gunshot",
    "typing",
    "footsteps",
    "church_bell",
    "glass",
    "duck",
    "phone_ringing",
    "car_horn",
)


def make(label: str, seed: int = 0, seconds: float = SECONDS) -> foley.FoleyEvent:
    return foley.synthesise(label, np.random.default_rng(seed), seconds)


def spectrum(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and each one's share of the energy."""
    power = abs(np.fft.rfft(waveform)) ** 2
    return np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE), power / power.sum()


def share(label: str, low: float, high: float, seed: int) -> float:
    frequencies, power = spectrum(make(label, seed).waveform)
    return float(power[(frequencies >= low) & (frequencies < high)].sum())


def frames(waveform: np.ndarray, n: int = 1024) -> np.ndarray:
    """Power spectra of successive Hann frames, shape (frames, bins); silent frames left out."""
    blocks = waveform[: len(waveform) // n * n].reshape(-1, n) * np.hanning(n)
    power = abs(np.fft.rfft(blocks)) ** 2
    return power[power.sum(1) > 0.01 * power.sum(1).max()]


@pytest.mark.parametrize("seconds", [0.5, SECONDS, 10.24])
@pytest.mark.parametrize("label", foley.LABELS)
def test_waveform_is_well_formed(label, seconds):
    for seed in range(3):
        event = make(label, seed, seconds)
        assert event.label == label
        assert event.waveform.dtype == np.float32
        assert event.waveform.shape == (round(seconds * SAMPLE_RATE),)
        assert np.isfinite(event.waveform).all()
        assert abs(event.waveform).max() == pytest.approx(1.0, abs=1e-6)
        assert np.sqrt(np.mean(event.waveform**2)) > 0.003


@pytest.mark.parametrize("label", foley.LABELS)
def test_same_seed_same_sound_other_seed_other_sound(label):
    assert np.array_equal(make(label, 5).waveform, make(label, 5).waveform)
    assert not np.allclose(make(label, 5).waveform, make(label, 6).waveform)


@pytest.mark.parametrize("seconds", [0.5, SECONDS, 10.24])
@pytest.mark.parametrize("label", foley.LABELS)
def test_onsets_and_offsets_lie_in_order_inside_the_clip(label, seconds):
    for seed in range(3):
        event = make(label, seed, seconds)
        assert event.onsets.dtype == event.offsets.dtype == np.float64
        assert event.onsets.shape == event.offsets.shape
        assert 0 <= event.onsets[0] <= 0.15
        assert (np.diff(event.onsets) > 0).all()
        assert (np.diff(event.offsets) >= 0).all()
        assert (event.offsets > event.onsets).all()
        assert event.offsets[-1] <= seconds


@pytest.mark.parametrize("label", STRUCK)
def test_energy_rises_at_the_stated_onsets(label):
    window = round(0.03 * SAMPLE_RATE)
    ratios = []
    for seed in range(6):
        event = make(label, seed)
        padded = np.concatenate([np.zeros(window), event.waveform]).astype(np.float64) ** 2
        for onset in (event.onsets * SAMPLE_RATE).astype(int):
            before = padded[onset : onset + window].sum()
            after = padded[onset + window : onset + 2 * window].sum()
            ratios.append(after / (before + 1e-12))
    assert np.mean(np.array(ratios) > 1.5) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_a_whistle_is_one_narrow_line(seed):
    power = frames(make("whistle", seed).waveform)
    peaks = power.argmax(1)
    near = abs(np.arange(power.shape[1]) - peaks[:, None]) <= 6  # ± 94 Hz
    assert np.median((power * near).sum(1) / power.sum(1)) > 0.9
    assert np.median(peaks) * SAMPLE_RATE / 1024 > 700


@pytest.mark.parametrize("seed", range(4))
def test_bands_set_the_classes_apart(seed):
    assert share("wind", 0, 1_000, seed) > 0.9
    assert share("engine", 0, 1_500, seed) > 0.7
    assert share("door_knock", 0, 1_000, seed) > 0.7
    assert share("glass", 2_000, 8_000, seed) > 0.8
    assert share("applause", 500, 4_000, seed) > 0.7
    assert share("phone_ringing", 600, 8_000, seed) > 0.95


@pytest.mark.parametrize("label", ["siren", "trumpet", "car_horn", "piano", "church_bell"])
def test_tones_are_lines_and_rushing_sounds_are_not(label):
    def flatness(power: np.ndarray) -> float:
        band = power[:, 20:400] + 1e-12
        return float(np.median(np.exp(np.log(band).mean(1)) / band.mean(1)))

    assert flatness(frames(make(label, 1).waveform)) < 0.1
    assert flatness(frames(make("applause", 1).waveform)) > 0.15


@pytest.mark.parametrize("label", foley.LABELS)
def test_nothing_is_loud_beside_the_nyquist_frequency(label):
    assert share(label, 7_900, 8_001, 2) < 0.03


def test_bad_requests_are_refused_in_words():
    with pytest.raises(ValueError, match="kazoo.*siren.*glass"):
        make("kazoo")
    with pytest.raises(ValueError, match="0.5 to 10.24 seconds"):
        make("siren", seconds=30)
    with pytest.raises(ValueError, match="0 metres or more"):
        place_at_distance(np.zeros(10, np.float32), -1)


def test_a_room_keeps_length_and_peak_and_fills_the_pauses():
    dry = make("door_knock", 1)
    wet = reverberate(dry.waveform, np.random.default_rng(0), decay=0.8)
    assert wet.dtype == np.float32
    assert wet.shape == dry.waveform.shape
    assert abs(wet).max() == pytest.approx(abs(dry.waveform).max(), rel=1e-5)
    after_hit = int((dry.offsets[0] + 0.02) * SAMPLE_RATE)
    assert (
        abs(wet[after_hit : after_hit + 400]).mean()
        > abs(dry.waveform[after_hit : after_hit + 400]).mean()
    )
    assert not reverberate(np.zeros(800, np.float32), np.random.default_rng(0)).any()


def test_distance_dulls():
    waveform = make("glass", 0).waveform
    centroids = []
    for metres in (0, 10, 50, 200):
        frequencies, power = spectrum(place_at_distance(waveform, metres))
        centroids.append((frequencies * power).sum())
    assert (np.diff(centroids) < -30).all()
    assert np.array_equal(place_at_distance(waveform, 0), waveform)


def test_vocabulary_covers_every_class():
    assert len(vocabulary.LABELS) == 26
    assert vocabulary.LABELS[10:] == foley.LABELS
    assert list(vocabulary.LABELS[:10]) == sorted(vocabulary.LABELS[:10])
    for words in vocabulary.VOCABULARY.values():
        assert words.plain in words.phrases
        assert len(words.phrases) >= 50
        assert len(words.paraphrases) == 5


def held_out():
    """Both lists of wordings that are never trained on, by class."""
    second = json.loads((DATA / "sounds" / "held_out.json").read_text(encoding="utf-8"))
    assert tuple(second) == vocabulary.LABELS
    assert {len(phrases) for phrases in second.values()} == {4}
    return {
        label: [*words.paraphrases, *second[label]]
        for label, words in vocabulary.VOCABULARY.items()
    }


def trigrams(phrase):
    words = re.findall(r"[a-z']+", phrase.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def test_no_caption_is_nearly_a_held_out_wording():
    minilm = load_minilm()
    for label, kept in held_out().items():
        phrases = vocabulary.VOCABULARY[label].phrases
        cosines = minilm.sentence(list(phrases)) @ minilm.sentence(kept).T
        assert cosines.max() <= 0.85, label
        assert not set.union(*map(trigrams, phrases)) & set.union(*map(trigrams, kept)), label


def test_no_paraphrase_and_no_phrase_of_two_classes_is_a_caption_twice():
    trained = [p.lower() for words in vocabulary.VOCABULARY.values() for p in words.phrases]
    kept = {phrase.lower() for phrases in held_out().values() for phrase in phrases}
    assert len(set(trained)) == len(trained)
    assert not set(trained) & kept


@pytest.mark.parametrize("relation", captions.RELATIONS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_captions_name_every_sound_in_varied_wording(relation, count):
    rng = np.random.default_rng(3)
    labels = ["dog_bark", "siren", "rain"][:count]
    made = {captions.compose(labels, relation, rng) for _ in range(200)}
    assert len(made) > 50
    for caption in made:
        for label in labels:
            phrases = vocabulary.VOCABULARY[label].phrases
            assert any(phrase.lower() in caption.lower() for phrase in phrases)
        if count > 1 and relation == "background":
            assert caption.rstrip(".").endswith("in the background")
    starts = np.mean([caption[0].isupper() for caption in made])
    stops = np.mean([caption.endswith(".") for caption in made])
    assert 0.3 < starts < 0.7
    assert 0.3 < stops < 0.7


def test_far_sounds_are_said_to_be_far_and_bad_captions_are_refused():
    rng = np.random.default_rng(0)
    assert "in the distance" in captions.single_caption("duck", rng, far=True)
    with pytest.raises(ValueError, match="No sound is called 'kazoo'.*duck"):
        captions.single_caption("kazoo", rng)
    with pytest.raises(ValueError, match="No relation is called 'beside'"):
        captions.compose(["duck", "rain"], "beside", rng)
    with pytest.raises(ValueError, match="one to three sounds, not 4"):
        captions.compose(["duck"] * 4, "mixture", rng)


def test_a_clip_is_the_synthesised_sound_by_its_name():
    clip = foley.foley_clip("door_knock", seed=3, seconds=2.0)
    event = foley.synthesise("door_knock", np.random.default_rng(3), 2.0)
    assert clip.name == "door knock"
    assert clip.seconds == 2.0
    assert np.corrcoef(clip.waveform, event.waveform)[0, 1] > 0.999
