"""Bad input to the sampler and bad episodes: one clear error each, that names the value and what to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import Episodes, EpisodeSampler, check_episodes

BANK = ImageBank.from_array(np.zeros((6, 10, 1, 4, 4), dtype=np.uint8), name="small")
OBLONG = ImageBank.from_array(np.zeros((6, 10, 1, 4, 5), dtype=np.uint8), name="oblong")
RAGGED = ImageBank(
    np.zeros((30, 1, 4, 4), dtype=np.uint8), np.array([0, 10, 15]), np.array([10, 5, 15]), ("a", "b", "c"), "ragged"
)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"bank": np.zeros((6, 10, 1, 4, 4), dtype=np.uint8)},
            TypeError,
            r"got ndarray \[6, 10, 1, 4, 4\] of uint8; use ImageBank.from_array",
        ),
        ({"bank": None}, TypeError, "bank must be an ImageBank, got None"),
        ({"n_way": 7}, ValueError, "n_way is 7, but bank 'small' has only 6 classes"),
        ({"n_way": 0}, ValueError, "n_way must be at least 1, got 0"),
        ({"n_way": 2.5}, TypeError, "n_way must be an integer, got 2.5"),
        ({"k_shot": 0}, ValueError, "k_shot must be at least 1, got 0"),
        ({"k_shot": "1"}, TypeError, "k_shot must be an integer, got '1'"),
        ({"k_query": -3}, ValueError, "k_query must be at least 1, got -3"),
        ({"k_query": 10}, ValueError, r"class 0 \('class 0'\) of bank 'small' has 10 images, .* 1 \+ 10 = 11; lower"),
        (
            {"bank": RAGGED, "n_way": 3, "k_query": 5},
            ValueError,
            r"class 1 \('b'\) of bank 'ragged' has 5 images.*drop the class",
        ),
        ({"meta_batch_size": 0}, ValueError, "meta_batch_size must be at least 1, got 0"),
        ({"meta_batch_size": None}, TypeError, "meta_batch_size must be an integer, got None"),
        ({"seed": -1}, ValueError, r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        ({"seed": 2**64}, ValueError, r"seed must be from 0 to 2\*\*64 - 1, got 18446744073709551616"),
        ({"seed": 0.0}, TypeError, "seed must be an integer, got 0.0"),
        ({"scale": "minmax"}, ValueError, "scale must be one of unit, raw, inverted; got 'minmax'"),
        ({"scale": ["unit"]}, ValueError, r"scale must be one of unit, raw, inverted; got \['unit'\]"),
        ({"rotate": 1}, TypeError, "rotate must be True or False, got 1"),
        ({"bank": OBLONG, "rotate": True}, ValueError, "rotate needs square images, got 4 x 5 in bank 'oblong'"),
        ({"start_episode": -1}, ValueError, r"start_episode must be from 0 to 2\*\*63 - 1, got -1"),
        (
            {"start_episode": 2**63},
            ValueError,
            r"start_episode must be from 0 to 2\*\*63 - 1, got 9223",
        ),
        ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
        ({"prefetch": -1}, ValueError, "prefetch must be at least 0, got -1"),
        ({"prefetch": None}, TypeError, "prefetch must be an integer, got None"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, got 0"),
        ({"threads": 10**6}, ValueError, "threads must be from 1 to 1024, got 1000000"),
    ],
)
def test_bad_parameters(changes: dict[str, object], error: type[Exception], message: str) -> None:
    settings = {"bank": BANK, "n_way": 5, "k_shot": 1, "k_query": 2, "meta_batch_size": 2, **changes}
    with pytest.raises(error, match=message):
        EpisodeSampler(**settings)


def test_numpy_integers_are_taken() -> None:
    sampler = EpisodeSampler(BANK, np.int64(5), np.uint8(1), np.int32(2), np.int16(2), np.uint64(2**64 - 1))
    assert (type(sampler.n_way), sampler.seed) == (int, 2**64 - 1)
    assert sampler.batch(np.int64(0)).x_qry.shape == (2, 10, 1, 4, 4)


def test_parameters_do_not_change_under_way() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'seed'"):
        EpisodeSampler(BANK, 5, 1, 2, 2).seed = 1


def test_repr_says_what_is_drawn() -> None:
    text = repr(EpisodeSampler(BANK, 5, 1, 2, 8, seed=3, batches=10, rotate=True))
    for part in ("5-way 1-shot", "2 queries", "10 meta-batches of 8", "seed 3", "unit", "rotated", "'small'", "code"):
        assert part in text


def good() -> Episodes:
    return Episodes(
        torch.rand(2, 6, 1, 4, 4),
        torch.arange(6).repeat(2, 1) % 3,
        torch.rand(2, 9, 1, 4, 4),
        torch.arange(9).repeat(2, 1) % 3,
    )


def with_value(field: str, place: tuple[int, ...], value: float) -> Callable[[Episodes], Episodes]:
    def change(episodes: Episodes) -> Episodes:
        tensor = getattr(episodes, field).clone()
        tensor[place] = value
        return episodes._replace(**{field: tensor})

    return change


def replaced(**changes: Callable[[torch.Tensor], object]) -> Callable[[Episodes], Episodes]:
    return lambda e: e._replace(**{field: change(getattr(e, field)) for field, change in changes.items()})


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda e: None, TypeError, r"four tensors, \(x_spt, y_spt, x_qry, y_qry\), got NoneType"),
        (lambda e: e.x_spt, TypeError, "four tensors, .* got Tensor"),
        (lambda e: e[:3], TypeError, "four tensors, .* got 3 of them"),
        (replaced(x_qry=lambda x: x.numpy()), TypeError, "x_qry must be a torch tensor, got ndarray"),
        (replaced(x_spt=lambda x: x[0]), ValueError, r"same number of episodes .* x_spt \[6, 1, 4, 4\]"),
        (replaced(x_spt=lambda x: x[0, :, 0, 0]), ValueError, r"at least three dimensions, got x_spt \[6, 4\]"),
        (replaced(x_qry=lambda x: x[:1]), ValueError, r"same number of episodes .* x_qry \[1, 9, 1, 4, 4\]"),
        (replaced(y_qry=lambda y: y[:1]), ValueError, r"same number of episodes .* y_qry \[1, 9\]"),
        (replaced(y_spt=lambda y: y[:, :5]), ValueError, "support: 6 images but 5 labels in each episode"),
        (replaced(y_qry=lambda y: y[:, :5]), ValueError, "query: 9 images but 5 labels in each episode"),
        (replaced(y_qry=lambda y: y[..., None]), ValueError, r"labels must be \[episodes, images\].*y_qry \[2, 9, 1\]"),
        (replaced(x_qry=lambda x: x[..., :3]), ValueError, "support and query images must have the same shape"),
        (replaced(x_qry=lambda x: x[:, :0], y_qry=lambda y: y[:, :0]), ValueError, "must not be empty.*x_qry \\[2, 0,"),
        (lambda e: Episodes(*(x[:0] for x in e)), ValueError, "must not be empty"),
        (
            replaced(x_spt=lambda x: (x * 255).byte()),
            TypeError,
            "x_spt must be floating point, got torch.uint8; sc",
        ),
        (replaced(x_qry=lambda x: x.double()), ValueError, "x_spt is torch.float32 but x_qry is torch.float64"),
        (
            replaced(y_spt=lambda y: y.int()),
            TypeError,
            r"y_spt must .* torch.int64, got torch.int32; use y_spt",
        ),
        (replaced(y_qry=lambda y: y.float()), TypeError, "y_qry must .* torch.int64, got torch.float32"),
        (replaced(x_qry=lambda x: x.to("meta")), ValueError, "must be on one device, got cpu, cpu, meta, cpu"),
        (with_value("y_spt", (1, 2), -1), ValueError, "y_spt holds label -1; labels are class numbers from 0"),
        (with_value("y_qry", (1, 2), 3), ValueError, "y_qry holds label 3, but with 3 classes labels are 0 to 2"),
        (with_value("x_spt", (1, 4, 0, 2, 2), float("nan")), ValueError, "x_spt holds NaN .* image 4 of episode 1"),
        (
            with_value("x_qry", (0, 8, 0, 0, 0), float("inf")),
            ValueError,
            "x_qry holds NaN or infinity.* image 8 of",
        ),
        (
            with_value("x_qry", (1, 0, 0, 0, 0), -float("inf")),
            ValueError,
            "x_qry holds NaN or infinity.* image 0 of",
        ),
    ],
)
def test_bad_episodes(spoil: Callable[[Episodes], Episodes], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_episodes(spoil(good()), n_way=3)


def test_good_episodes_of_many_kinds() -> None:
    episodes = good()
    assert check_episodes(episodes, n_way=3) == episodes
    assert isinstance(check_episodes(tuple(episodes)), Episodes)
    assert isinstance(check_episodes(list(episodes)), Episodes)
    assert check_episodes(episodes.to(torch.float64)).x_spt.dtype == torch.float64
    check_episodes(Episodes(torch.rand(2, 6, 10), episodes.y_spt, torch.rand(2, 9, 10), episodes.y_qry))  # features
    huge = torch.full_like(episodes.x_spt, 3e38)  # finite, though the sum is not
    check_episodes(episodes._replace(x_spt=huge, x_qry=episodes.x_qry.requires_grad_()))
    check_episodes(EpisodeSampler(BANK, 5, 1, 2, 2).batch(0), n_way=5)


def test_values_are_looked_at_on_the_cpu_and_elsewhere_only_if_asked() -> None:
    spoilt = with_value("x_spt", (0, 0, 0, 0, 0), float("nan"))(good())
    for values in (None, True):
        with pytest.raises(ValueError, match="x_spt holds NaN"):
            check_episodes(spoilt, values=values)
    check_episodes(spoilt, values=False)
    elsewhere = spoilt.to("meta")  # where there are no values: a look at them is an error
    check_episodes(elsewhere)
    with pytest.raises(RuntimeError, match="meta"):
        check_episodes(elsewhere, values=True)
    with pytest.raises(ValueError, match="same number of episodes"):
        check_episodes(elsewhere._replace(x_qry=elsewhere.x_qry[:1]))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3)])
def test_targets_that_are_not_classes(shape: tuple[int, ...]) -> None:
    episodes = good()._replace(y_spt=torch.randn(shape), y_qry=torch.randn(2, 9, *shape[2:]))
    assert check_episodes(episodes, classification=False) is not None
    with pytest.raises(ValueError, match="y_spt holds NaN"):
        check_episodes(episodes._replace(y_spt=torch.full(shape, float("nan"))), classification=False)
    with pytest.raises(ValueError, match="support: 6 images but 5 labels"):
        check_episodes(episodes._replace(y_spt=torch.randn(2, 5)), classification=False)


def test_sequences_may_differ_in_length_where_targets_are_not_classes() -> None:
    sequences = Episodes(torch.rand(2, 1, 5, 3), torch.rand(2, 1, 5), torch.rand(2, 1, 9, 3), torch.rand(2, 1, 9))
    assert check_episodes(sequences, classification=False) == sequences


def test_episodes_move() -> None:
    episodes = good()
    assert episodes.meta_batch_size == 2
    for moved in (episodes.to(torch.float64), episodes.to(dtype=torch.float64), episodes.to("cpu", torch.float64)):
        assert [x.dtype for x in moved] == [torch.float64, torch.int64] * 2
    moved = episodes.to("meta")
    assert isinstance(moved, Episodes)
    assert {x.device.type for x in moved} == {"meta"}
    assert episodes.to("cpu").x_spt is episodes.x_spt
