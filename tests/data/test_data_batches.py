"""Batches: the position is all there is to know; splits and pairs: who is where."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest_data import made_landmarks, points_of, put

from aboutface.data import Batches, Resized, open_examples, same_identity_pairs, split_by_identity
from aboutface.errors import UsageError


def identify(item, random):
    """The item itself and its random number."""
    return {"item": torch.tensor(item), "random": torch.tensor(random.random())}


def rows(batches, count):
    got = [next(batches) for _ in range(count)]
    return [(int(i), float(r)) for batch in got for i, r in zip(batch["item"], batch["random"], strict=True)]


def test_every_epoch_has_every_example_once_and_its_own_order_and_randomness():
    got = rows(Batches(list(range(10)), identify, 4, seed=3), 10)
    epochs = [got[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(i for i, _ in epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(i for i, _ in epoch) for epoch in epochs}) == 4
    assert len({r for _, r in got}) == 40


def test_seed_decides_all_and_global_randomness_nothing():
    first = rows(Batches(list(range(10)), identify, 4, seed=3), 6)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert rows(Batches(list(range(10)), identify, 4, seed=3), 6) == first
    assert torch.equal(torch.get_rng_state(), before), "a dropout in the model would depend on the loader"
    assert rows(Batches(list(range(10)), identify, 4, seed=4), 6) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly_whatever_workers_had_loaded_ahead(workers):
    unbroken = rows(Batches(list(range(10)), identify, 4, seed=1), 9)
    batches = Batches(list(range(10)), identify, 4, seed=1, workers=workers)
    start = rows(batches, 4)
    state = json.loads(json.dumps(batches.state_dict()))
    rows(batches, 2)
    batches.load_state_dict(state)
    assert start + rows(batches, 5) == unbroken
    fresh = Batches(list(range(10)), identify, 4, seed=1, workers=2 - workers)
    fresh.load_state_dict(state)
    assert rows(fresh, 5) == unbroken[16:]


def test_ranks_share_the_batch_that_one_process_has():
    whole = Batches(list(range(10)), identify, 6, seed=2)
    shares = [Batches(list(range(10)), identify, 6, seed=2, rank=rank, world=3) for rank in range(3)]
    for _ in range(5):
        assert rows(whole, 1) == [row for share in shares for row in rows(share, 1)]


def test_wrong_states_and_sizes_are_refused():
    batches = Batches(list(range(10)), identify, 4, seed=1)
    with pytest.raises(UsageError, match="had examples 11, now 10"):
        batches.load_state_dict({"samples": 4, "seed": 1, "examples": 11})
    with pytest.raises(UsageError, match="had seed 2, now 1"):
        batches.load_state_dict({"samples": 4, "seed": 2, "examples": 10})
    with pytest.raises(UsageError, match="multiple of the 3"):
        Batches([1], identify, 4, world=3)
    with pytest.raises(UsageError, match="empty"):
        Batches([], identify, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_example_is_replaced_by_the_next_good_one_and_named(tmp_path, workers):
    for index in range(6):
        put(tmp_path, f"{index}.jpg", index, 64, identity=str(index))
    good = Batches(open_examples(tmp_path), _who, 6, seed=5)
    expected = [["4" if who in ("2", "3") else who for who in next(good)["who"]] for _ in range(2)]
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:500])
    batches = Batches(open_examples(tmp_path), _who, 6, seed=5, workers=workers)
    assert [next(batches)["who"] for _ in range(2)] == expected
    assert sorted(batches.bad) == ["2.jpg", "3.jpg"]
    assert "empty" in batches.bad["2.jpg"]
    assert Counter(expected[0]) == {"0": 1, "1": 1, "4": 3, "5": 1}


def _who(example, random):
    return {"who": example.identity}


@pytest.mark.parametrize("workers", [0, 1])
def test_where_nothing_is_usable_the_first_reason_is_said(tmp_path, workers):
    for index in range(3):
        put(tmp_path, f"{index}.jpg", index, landmarks68=made_landmarks()[:66].tolist())
    with pytest.raises(UsageError, match=r"3 examples in a row.*landmarks_68_from_66"):
        next(Batches(open_examples(tmp_path), Resized(16), 2, workers=workers))


def test_resized_moves_landmarks_with_the_picture_and_mirrors_both(tar_of_ten):
    example = open_examples(tar_of_ten)[3]
    random = np.random.default_rng(0)
    plain = Resized(32, mirror=0, landmarks=True)(example, random)
    mirrored = Resized(32, mirror=1, landmarks=True)(example, random)
    assert plain["image"].shape == (3, 32, 32)
    assert torch.equal(mirrored["image"], plain["image"].flip(-1))
    assert torch.allclose(plain["landmarks"], torch.tensor(points_of(example)) / 2)
    assert torch.allclose(
        mirrored["landmarks"][16], torch.tensor([32.0, 0]) + plain["landmarks"][0] * torch.tensor([-1.0, 1])
    )
    same = Resized(64, mirror=0)(example, random)["image"]
    assert np.array_equal((same * 255).round().byte().permute(1, 2, 0).numpy(), example.pixels)


def test_no_person_is_in_two_parts_and_parts_are_near_their_share():
    identities = [f"person {i // 4}" for i in range(4000)]
    parts = split_by_identity(identities, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=1)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(4000))
    people = {name: {identities[i] for i in part} for name, part in parts.items()}
    assert sum(map(len, people.values())) == len(set(identities))
    for name, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert abs(len(people[name]) / 1000 - share) < 4 * math.sqrt(share * (1 - share) / 1000)
    other = split_by_identity(identities, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=2)
    assert not torch.equal(parts["test"], other["test"])


def test_a_person_stays_in_the_part_when_others_come_and_go():
    few = [f"p{i}" for i in range(50)]
    more = [f"p{i}" for i in reversed(range(20, 200))]
    before, after = split_by_identity(few), split_by_identity(more)
    for i in range(20, 50):
        assert (i in before["test"]) == (more.index(f"p{i}") in after["test"])


def test_unknown_identities_are_not_split():
    with pytest.raises(UsageError, match="1 of 2 examples have no identity"):
        split_by_identity(["a", None])
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_identity(["a"], {"train": 0.5})
    assert split_by_identity(["a", "b"], {"train": 1.0, "test": 0.0})["test"].tolist() == []


def test_pairs_are_all_pairs_of_one_person():
    identities = ["a", "b", None, "a", "a", "b", None, "c"]
    pairs = same_identity_pairs(identities)
    wanted = {(i, j) for i, a in enumerate(identities) for j, b in enumerate(identities) if i != j and a and a == b}
    assert set(map(tuple, pairs.tolist())) == wanted
    assert len(pairs) == len(wanted) == 8
    assert len(same_identity_pairs(identities, ordered=False)) == 4
    mixed = same_identity_pairs(identities, seed=1)
    assert set(map(tuple, mixed.tolist())) == wanted
    assert mixed.tolist() != pairs.tolist()
    assert same_identity_pairs(["a", "b"]).shape == (0, 2)
