"""Random streams: each augmentation of each sample has one of its own, whatever else is switched on."""

import functools
from collections import defaultdict

import numpy as np
import pytest
from test_augment import OFF, Drawn, random_sample

from yolo_lite.config.hyp import Hyp
from yolo_lite.data import augment, effects
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.ops.streams import NamedGenerators, Stream

# Half of all samples get each; 0.5 degrees and hsv are there to be switched off.
KEYS = {
    **dict.fromkeys(("mosaic", "mixup", "flipud", "fliplr", "grayscale", "blur", "jpeg", "erasing"), 0.5),
    **{"degrees": 20.0, "hsv_s": 0.5},
}
ENTRY = {"degrees": "warp", "hsv_s": "hsv"}  # the stream of a key, where it has another name


def test_the_values_of_streams_are_what_runs_were_made_with():
    assert {stream.name: stream.value for stream in Stream} == {"SAMPLE": 0, "ORDER": 1, "STEP": 2, "SCALE": 3}


def test_generators_depend_on_all_words_and_the_name_alone():
    def first(seed: int, epoch: int, index: int, name: str) -> float:
        return NamedGenerators(seed, Stream.SAMPLE, epoch, index)[name].random()

    found = [first(*words) for words in ((0, 0, 0, "blur"), (1, 0, 0, "blur"), (0, 1, 0, "blur"), (0, 0, 1, "blur"))]
    assert len({*found, first(0, 0, 0, "jpeg")}) == 5
    random = NamedGenerators(0, Stream.SAMPLE, 0, 0)
    random["jpeg"].random(9)
    assert random["blur"].random() == found[0] != random["blur"].random()  # the same generator goes on


class Notes:
    """Which samples each augmentation struck first, and where its stream stood then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sample = (0, 0)
        self.found: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
        for name, function in list(effects.AUGMENTATIONS.items()):
            monkeypatch.setitem(effects.AUGMENTATIONS, name, self.noting(name, function))
        for name, stream in (("mosaic", "mosaic"), ("mixup", "mixup"), ("random_warp", "warp")):
            monkeypatch.setattr(augment, name, self.noting(stream, getattr(augment, name)))

    def noting(self, name, function):
        @functools.wraps(function)
        def noted(*arguments, **settings):
            self.found[name].setdefault(self.sample, arguments[-1].bit_generator.state["state"]["state"])
            return function(*arguments, **settings)

        return noted

    def of_run(self, hyp: Hyp) -> dict[str, dict[tuple[int, int], int]]:
        self.found.clear()
        rng = np.random.default_rng(0)
        drawn = Drawn([random_sample(label, 32, rng) for label in range(6)])
        dataset = TrainingSet(drawn, drawn, 32, hyp, 0, 99)  # type: ignore[arg-type]
        for self.sample in [(epoch, index) for epoch in range(4) for index in range(6)]:
            dataset[self.sample]
        return dict(self.found)


@pytest.mark.parametrize("key", KEYS)
def test_switching_one_augmentation_on_leaves_the_others_as_they_were(key, monkeypatch):
    notes = Notes(monkeypatch)
    off = {**OFF, "translate": 0.1, **KEYS, key: 0.0}
    without, with_it = notes.of_run(Hyp(**off)), notes.of_run(Hyp(**{**off, key: KEYS[key]}))
    name = ENTRY.get(key, key)
    assert with_it[name] and set(with_it) - {name} == set(without) - {name}
    for other in set(without) - {name}:
        is_added = (key, other) == ("mixup", "mosaic")  # the image that mixup adds may be the only mosaic
        assert without[other].items() <= with_it[other].items() if is_added else without[other] == with_it[other]
    assert without.get(name) in (None, with_it[name])  # translation or an idle hsv draw from the stream as well


def test_plugins_have_streams_of_their_own(monkeypatch):
    """A second one leaves the first, and the built-in ones, as they were; its place in the list does not matter."""

    def shifted(image, instances, rng):
        return image, instances.warped(np.eye(3) + [[0, 0, rng.uniform(-5, 5)], [0, 0, 0], [0, 0, 0]])

    def noisy(image, label, xyxy, rng):
        return image + rng.integers(0, 2, image.shape, dtype=np.uint8), label, xyxy

    monkeypatch.setitem(effects.AUGMENTATIONS, "shifted", shifted)
    monkeypatch.setitem(effects.AUGMENTATIONS, "noisy", noisy)
    hyps = [Hyp(**KEYS, augmentations=names) for names in ((), "noisy", ("shifted", "noisy"), ("noisy", "shifted"))]
    notes = Notes(monkeypatch)
    plain, one, two, turned = (notes.of_run(hyp) for hyp in hyps)
    assert set(plain) == set(one) - {"noisy"} == set(two) - {"noisy", "shifted"}
    assert two == turned and all(two[name] == one[name] for name in one) and all(one[n] == plain[n] for n in plain)
