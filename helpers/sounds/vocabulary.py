"""What the pocket model's twenty-six classes are called in words.

`phrases` become training captions. `paraphrases` never do: they ask whether a prompt in other
words is understood as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RELATIONS = ("background", "sequence", "mixture")


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


def _words(phrases: str, paraphrases: str) -> Words:
    """Split two comma-separated lists; the first phrase is the plain one."""
    training, held_out = (
        tuple(" ".join(phrase.split()) for phrase in text.split(","))
        for text in (phrases, paraphrases)
    )
    return Words(training[0], training, held_out)


VOCABULARY: dict[str, Words] = {
    "baby_cry": _words(
        """a baby crying, a crying baby, a baby cries, an infant crying, an infant crying loudly,
        a newborn baby crying, a baby screaming and crying, an upset baby, a baby cries loudly,
        a little baby crying out, an unhappy infant, a baby crying and sobbing, crying of a baby""",
        """a toddler wailing, a small child bawling, a howling child in tears,
        a hungry tot shrieking, a weeping young child""",
    ),
    "chainsaw": _words(
        """a chainsaw, a chainsaw running, a chain saw cutting wood, a chainsaw buzzing,
        a chainsaw revving, a motor saw cutting a tree, sawing with a chainsaw, a loud chainsaw,
        a chainsaw cutting through a log, a power saw running, a chainsaw being used,
        a gasoline saw at work, a chainsaw engine revving up and down""",
        """a lumberjack felling a trunk with a machine, a logger's petrol cutter,
        timber being sliced by a motorised blade, forestry equipment droning,
        a lumber cutter roaring through branches""",
    ),
    "clock_tick": _words(
        """a clock ticking, a ticking clock, a clock ticks, the ticking of a clock,
        a wall clock ticking, an alarm clock ticking steadily, a watch ticking,
        a clock ticking quietly, the tick tock of a clock, a clock ticks steadily,
        a mechanical clock ticking, a clock counting the seconds, steady ticking""",
        """a timepiece marking each second, tick-tock, a pendulum swinging back and forth,
        a metronome-like timer, a wristwatch's second hand""",
    ),
    "dog_bark": _words(
        """a dog barking, a dog barks, a barking dog, barking of a dog, a dog barking loudly,
        a large dog barking, a small dog barking, a puppy barking, a dog barking at a stranger,
        an angry dog barking, a dog barking outside, a guard dog barks, dogs barking""",
        """a hound woofing, canine yapping, a terrier going woof, a mutt yelping,
        a poodle snarling and woofing""",
    ),
    "fire_crackling": _words(
        """a fire crackling, a crackling fire, a fire crackles, a fire burning,
        a campfire crackling,
        crackling of a fire, wood burning in a fireplace, a fireplace crackling,
        flames crackling and popping, a wood fire crackles, a burning fire,
        fire crackling softly, a log fire burning""",
        """a bonfire with glowing embers, a hearth with snapping logs, blazing twigs,
        sparks snapping from timber, kindling ablaze""",
    ),
    "helicopter": _words(
        """a helicopter, a helicopter flying, a helicopter flies by, a helicopter hovering,
        helicopter blades spinning, a helicopter passing overhead, a helicopter flying overhead,
        a loud helicopter, a helicopter in the air, the rotor of a helicopter,
        a helicopter taking off, a military helicopter flying, a helicopter engine and rotor""",
        """a chopper in the sky, whirling rotorcraft, a whirlybird circling above,
        an aircraft with thumping rotors, a copter coming in to land""",
    ),
    "person_sneeze": _words(
        """a person sneezing, a sneeze, a person sneezes, a man sneezing, a woman sneezing,
        someone sneezing, someone sneezes loudly, a loud sneeze, a man sneezes, a woman sneezes,
        a person sneezing suddenly, sneezing, a big sneeze""",
        """achoo, an atchoo from a cold, a hay fever outburst through the nose,
        somebody with allergies going achoo, a nose explosively clearing""",
    ),
    "rain": _words(
        """rain, rain falling, rain falls, heavy rain, rain falling on a roof, steady rain,
        rain pouring down, rain pattering on the ground, light rain, a rain shower,
        falling rain, rainy weather, rain hitting a window""",
        """a downpour, drizzle coming down, a wet storm pelting the pavement,
        a cloudburst, drops splashing on leaves""",
    ),
    "rooster": _words(
        """a rooster crowing, a rooster crows, a crowing rooster, a rooster, crowing of a rooster,
        a rooster crowing loudly, a rooster crows in the morning, a rooster on a farm,
        a cock crowing, a farm rooster crowing, a rooster calling, a rooster crowing at dawn,
        a cock crows""",
        """a cockerel greeting the sunrise, cock-a-doodle-doo, male chicken screeching,
        poultry announcing daybreak, a barnyard cockerel""",
    ),
    "sea_waves": _words(
        """sea waves, waves on a beach, waves crashing on the shore, ocean waves,
        waves rolling in, the sea, waves of the sea breaking, ocean waves crashing,
        waves washing up on the beach, the ocean, sea waves hitting rocks,
        waves breaking on the coast, gentle waves at the seaside""",
        """surf at the seashore, breakers, the tide coming in, swell lapping on the sand,
        seawater surging against a cliff""",
    ),
    "siren": _words(
        """a siren, a siren wailing, a siren wails, an emergency siren, a police siren,
        an ambulance siren, a fire truck siren, a loud siren, a siren sounding,
        a police car with its siren on, a wailing siren, an emergency vehicle with a siren,
        a siren going up and down""",
        """cops racing with their alarm on, a brigade alarm blaring,
        paramedics racing with a howling alarm,
        a highway patrol warning everybody off, an air-raid warning""",
    ),
    "gunshot": _words(
        """a gunshot, gunshots, a gun firing, a gun fires, gunfire, a gun being shot, shots fired,
        a loud gunshot, a pistol shot, a rifle firing, someone shooting a gun,
        a series of gunshots, a shot from a gun""",
        """a firearm discharging, a revolver going off, bullets whizzing, a shotgun blast,
        a sniper opening fire""",
    ),
    "church_bell": _words(
        """a church bell ringing, church bells, a church bell, a church bell rings, bells ringing,
        a large bell tolling, a bell tolls, church bells ringing, a bell being struck slowly,
        a big bell ringing, the bell of a church, a tolling bell, a church bell striking""",
        """a cathedral chime, a steeple carillon, a chapel gong, a belfry pealing,
        a monastery campanile clanging""",
    ),
    "phone_ringing": _words(
        """a phone ringing, a telephone ringing, a phone rings, a telephone rings, a ringing phone,
        an old telephone ringing, a ringing telephone, a phone ringing repeatedly,
        a telephone bell ringing, a phone call coming in, a desk phone ringing,
        an office phone rings, ringing of a telephone""",
        """an incoming caller, a mobile ringtone, a cellphone going off,
        a landline buzzing for an answer,
        a handset waiting to be picked up""",
    ),
    "door_knock": _words(
        """a knock on a door, knocking on a door, someone knocking on a door, door knocking,
        a person knocks on a door, knocks at the door, knocking on a wooden door,
        someone knocks at the door, a knock at the door, loud knocking on a door, knocking,
        a hand knocking on wood, several knocks on a door""",
        """a visitor rapping at the entrance, knuckles tapping on a panel,
        a fist pounding at the gate, somebody banging to be let in, rap on the entry""",
    ),
    "engine": _words(
        """an engine running, an engine, a car engine, an engine idling, an engine idles,
        a motor running, an engine revving, a car engine idling, a vehicle engine running,
        a truck engine running, an engine revs, the engine of a car, a running motor""",
        """a diesel chugging, an automobile with its ignition on, a lorry rumbling in neutral,
        a tractor puttering, pistons turning over""",
    ),
    "car_horn": _words(
        """a car horn, a car horn honking, a car honking, a car honks, honking of a car,
        a car honks its horn, a horn honking, a vehicle horn, a loud car horn,
        a horn honks, a driver honking the horn, a car horn blowing, honking in traffic""",
        """a chauffeur beeping, a taxi tooting, an impatient motorist hooting, an automobile beep,
        a lorry's klaxon""",
    ),
    "typing": _words(
        """typing on a keyboard, keyboard typing, someone typing, a person typing on a keyboard,
        a computer keyboard, typing, a keyboard being typed on, keys of a keyboard being pressed,
        fast typing on a keyboard, someone typing on a computer, a person types,
        keyboard keys clicking, typing on a computer keyboard""",
        """a secretary tapping out a letter, a typist at work, a laptop being used to write,
        fingers tapping buttons at a desk, a typewriter clattering""",
    ),
    "footsteps": _words(
        """footsteps, a person walking, footsteps on a floor, someone walking, walking footsteps,
        a person walks, footsteps on gravel, footsteps on concrete, footsteps on wood,
        someone walks by, a man walking, the footsteps of a person, steady footsteps""",
        """a pedestrian strolling, shoes treading along a corridor, boots marching,
        a hiker pacing, heels striding across a hall""",
    ),
    "duck": _words(
        """a duck quacking, a duck, a duck quacks, ducks quacking, a quacking duck,
        quacking of a duck, a duck quacking loudly, ducks, several ducks quacking,
        a duck quacks repeatedly, a duck on a pond, a wild duck quacking, quacking""",
        """a mallard, waterfowl calling out, a drake squawking on a lake, a noisy mallard pair,
        a bird going quack""",
    ),
    "wind": _words(
        """wind blowing, wind, the wind blows, strong wind, wind blowing hard, a gust of wind,
        howling wind, the wind howling, windy weather, wind blowing outside, blowing wind,
        gusts of wind, wind blowing through trees""",
        """a breeze, a gale, a blustery day, a draughty storm whooshing, a stormy squall""",
    ),
    "applause": _words(
        """applause, people clapping, an audience clapping, a crowd applauding, a crowd clapping,
        an audience applauds, clapping, a crowd claps, people applauding, a round of applause,
        hands clapping, many people clapping, loud applause""",
        """an ovation, spectators cheering with their palms, a theatre public showing appreciation,
        a standing ovation at a concert, fans putting their palms together""",
    ),
    "piano": _words(
        """a piano playing, a piano, piano music, a person playing the piano, a piano melody,
        a piano plays, someone plays the piano, notes on a piano, a piano being played,
        a slow piano tune, chords on a piano, a piano piece, piano notes""",
        """a pianist performing, a sonata on the ivories, a performance on a Steinway grand,
        a honky-tonk pianist,
        a Chopin nocturne""",
    ),
    "trumpet": _words(
        """a trumpet playing, a trumpet, a trumpet plays, trumpet music,
        a person playing the trumpet,
        a trumpet melody, someone plays a trumpet, a trumpet solo, a trumpet being played,
        a trumpet fanfare, a loud trumpet, notes on a trumpet, a trumpet sounding""",
        """a brass player, a bugle call, a cornet tune, a jazz horn soloist,
        a herald's brass signal""",
    ),
    "whistle": _words(
        """a person whistling, whistling, someone whistling, a whistle, a whistle being blown,
        a person whistles, a man whistling a tune, someone whistles a melody, a whistle blows,
        a person whistling a tune, a referee blowing a whistle, a sharp whistle,
        a whistled melody""",
        """a shepherd piping through the lips, an umpire's shrill signal, a coach's shrill blast,
        a catcall through pursed lips, tootling an air through the teeth""",
    ),
    "glass": _words(
        """glass breaking, glass shattering, breaking glass, a glass breaks, a window breaking,
        a glass shatters, a window shatters, shattering glass, glass smashing,
        a bottle breaking, glass clinking, a glass being broken, glasses clinking together""",
        """a vase smashed on the tiles, a jar in splinters, a pane in pieces,
        crystal goblets toasting,
        a windscreen bursting into shards""",
    ),
}
LABELS = tuple(VOCABULARY)

SINGLE = (
    "{}",
    "{}",
    "sound of {}",
    "the sound of {}",
    "sounds of {}",
    "{} can be heard",
    "a recording of {}",
)
FAR = "{} in the distance"
REPEATED = frozenset({"dog_bark", "church_bell", "phone_ringing", "door_knock", "car_horn", "duck"})
TIMES = ("several times", "repeatedly", "again and again", "a few times")
FIRST_TWO = {
    "background": ("{} with {} in the background", "{}, and {} in the background"),
    "sequence": ("{} followed by {}", "{}, then {}", "{} and then {}"),
    "mixture": ("{} while {}", "{} and {}", "{} together with {}"),
}
THIRD = {
    "background": ("{} and {}",),
    "sequence": ("{} followed by {}", "{}, then {}", "{}, and finally {}"),
    "mixture": ("{} and {}", "{}, and also {}"),
}


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


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
