"""Own data: product remarks from a small seeded grammar; a text model reads their tokens.

The verdict of a remark depends on negation and on the order of its clauses: "although the screen
is bad , the battery is good" is positive, the same words the other way round are negative.
"""

import numpy as np

LENGTH = 16
LABELS = ["negative", "mixed", "positive"]

WORDS = {
    "owner": "the my this our their",
    "kind": "new old small large spare second",
    "part": "screen battery camera speaker keyboard case button cable charger lens display "
    "microphone strap hinge remote filter motor handle lid pump",
    "verb": "is seems looks feels was",
    "degree": "very really quite rather so too",
    "negation": "not never hardly",
    "link": "and but although ,",
    "good": "good great excellent superb solid lovely reliable sturdy fast bright quiet "
    "comfortable handy neat brilliant smooth sharp perfect pleasant useful",
    "bad": "bad poor terrible awful weak ugly flimsy fragile slow dim noisy uncomfortable clumsy "
    "dirty useless rough blurry broken annoying cheap",
}
CHOICES = {kind: words.split() for kind, words in WORDS.items()}
FORMS = ["one", "and", "but", "although", "although first"]

VOCABULARY = ["<pad>", "<unknown>", *(word for words in CHOICES.values() for word in words)]
_INDICES = {word: index for index, word in enumerate(VOCABULARY)}


def encode(sentence):
    """Token ids `(16,)`, int64, and their mask `(16,)`: 1 for a word, 0 for padding."""
    ids = [_INDICES.get(word, _INDICES["<unknown>"]) for word in sentence.split()][:LENGTH]
    tokens, mask = np.zeros(LENGTH, np.int64), np.zeros(LENGTH, np.float32)
    tokens[: len(ids)] = ids
    mask[: len(ids)] = 1
    return tokens, mask


def remarks(count, seed=0):
    """Different sentences and their labels, drawn from the grammar."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        sentence, label = _remark(rng)
        found[sentence] = label
    return list(found), np.array(list(found.values()))


def splits(count=3000, seed=0):
    """The three splits. Ids stay integers: the pre-processing says so."""
    sentences, targets = remarks(count, seed)
    tokens, mask = (np.stack(arrays) for arrays in zip(*map(encode, sentences), strict=True))
    cuts = np.split(np.arange(count), [count * 2 // 3, count * 5 // 6])
    named = zip(("train", "validation", "test"), cuts, strict=True)
    return {
        **{name: ({"tokens": tokens[i], "mask": mask[i]}, targets[i]) for name, i in named},
        "labels": LABELS,
        "preprocessing": {
            "tokens": {"raw_shape": [LENGTH], "raw_dtype": "int64", "dtype": "int64"},
            "mask": {"raw_shape": [LENGTH], "raw_dtype": "float32"},
        },
    }


def _remark(rng):
    """One clause, or two of different things; what stands after `but` or `,` outweighs."""
    form = rng.choice(FORMS, p=[0.3, 0.25, 0.15, 0.15, 0.15])
    (first, a), (second, b) = _clause(rng), _clause(rng)
    if form == "one":
        return first, LABELS.index("positive" if a else "negative")
    if form == "and":
        return f"{first} and {second}", LABELS.index(
            "mixed" if a != b else "positive" if a else "negative"
        )
    sentence, verdict = {
        "but": (f"{first} but {second}", b),
        "although": (f"{first} although {second}", a),
        "although first": (f"although {first} , {second}", b),
    }[form]
    return sentence, LABELS.index("positive" if verdict else "negative")


def _clause(rng):
    """Such as `my new camera is not very sharp`, and whether it is praise."""
    good, negated = rng.random(2) < (0.5, 0.3)

    def pick(kind):
        return rng.choice(CHOICES[kind])

    words = [
        pick("owner"),
        *([pick("kind")] if rng.random() < 0.4 else []),
        pick("part"),
        pick("verb"),
        *([pick("negation")] if negated else []),
        *([pick("degree")] if rng.random() < 0.4 else []),
        pick("good" if good else "bad"),
    ]
    return " ".join(words), bool(good != negated)
