"""What the benchmarks stand on: the arithmetic floor, and parity before timing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import blocks
import flops
import parity
import pytest
import torch
import workloads
from peers import TRUTH, TUTORIAL, of_use_on
from peers.block import per_task_block
from peers.loop import TaskLoop
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from workloads import WORKLOADS
from wrong_peers import FirstOrder, NoGradient, NotANumber, OnlyFloat32IsWrong, WrongLoss

Q1, Q2 = workloads.QUICK
W1, W3, W5 = (workloads.named(name) for name in ("W1", "W3-order2", "W5-order2"))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((5, 5), 3, 1, 1),
        ((7, 4), 3, 2, 2),
        ((6, 9), 5, 3, 2),
        ((4, 4), 1, 1, 0),
        ((2, 2), 3, 2, 2),
        ((1, 1), 3, 2, 2),
    ],
)
def test_taps_on_padding_are_left_out(size, kernel, stride, padding):
    pairs = 0
    for (row, column), (i, j) in itertools.product(
        itertools.product(*(range((n + 2 * padding - kernel) // stride + 1) for n in size)),
        itertools.product(range(kernel), repeat=2),
    ):
        y, x = row * stride - padding + i, column * stride - padding + j
        pairs += 0 <= y < size[0] and 0 <= x < size[1]
    counted = flops.convolution_multiply_adds((3, *size), 4, kernel, stride, padding)
    assert counted == 3 * 4 * pairs


def test_layers_are_found_in_their_order():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(18, 5))
    assert flops.layers(model, (1, 5, 5)) == [
        flops.Layer(9 * 9 * 4, 4 * 9, first=True),
        flops.Layer(9 * 4 * 2, 2 * 9, first=False),
        flops.Layer(18 * 5, 5, first=False, convolution=False),
    ]


@pytest.mark.parametrize("scored", [(), (0,)])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_task_is_what_pytorch_executes(steps, order, scored):
    """On a net without padding or batch norm, in which every operation counts."""
    first = nn.Conv2d(1, 2, 1)  # small: PyTorch's second order makes a product of it in vain
    model = nn.Sequential(first, nn.Tanh(), nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 5))
    one = replace(Q2, model=lambda: model, meta_batch_size=1, inner_steps=steps, order=order, scored=scored)
    one = replace(one, network=lambda weights, x: functional(model, weights, x), image_shape=(1, 6, 6))
    learner = TaskLoop(one, list(model.parameters()))
    with FlopCounterMode(display=False) as counter:
        learner.backward(one.episodes())
    in_vain = steps * 5 * 2 * one.layers()[0].multiply_adds if order == 2 else 0
    assert one.flops() <= counter.get_total_flops() <= one.flops() + in_vain


def test_the_workloads():
    """The figures that the workloads were specified with, in GFLOP."""
    gflop = {workload.name: workload.flops() / 1e9 for workload in WORKLOADS if workload.name != "F"}
    expected = {
        "W1": 6.2,
        "W2-order2": 147,
        "W2-order1": 131,
        "W3-order2": 244,
        "W3-order1": 164,
        "W4-order2": 325,
        "W4-order1": 164,
        "W5-order2": 251,
        "W5-order1": 117,
    }
    assert gflop == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("net", "workload", "support"), [("Conv4-64", W3, 5), ("Conv4-32", W5, 25)], ids=["Conv4-64", "Conv4-32"]
)
def test_blocks_add_up_to_the_workload(net, workload, support):
    """Five inner steps with all passes on the support blocks, and one query; the linear layer is little."""
    of_net = [block for block in blocks.BLOCKS if block.net == net]
    whole = sum(b.flops("double backward") * 5 if b.images == support else b.flops("backward") for b in of_net)
    assert whole == pytest.approx(workload.convolution_flops())


def test_blocks_of_a_query_set():
    query = {(block.net, block.images, block.passes) for block in blocks.BLOCKS} - {
        ("Conv4-64", 5, blocks.PASSES),
        ("tutorial's net", 5, blocks.PASSES),
        ("Conv4-32", 25, blocks.PASSES),
    }
    assert query == {(net, 75, blocks.PASSES[:2]) for net in ("Conv4-64", "tutorial's net", "Conv4-32")}
    assert [block.name.partition(",")[0] for block in blocks.QUERY_OF_W3] == [
        f"Conv4-64 block {n}" for n in (1, 2, 3, 4)
    ]


def test_convolutions_are_all_of_it_but_the_classifier():
    classifier = 2 * 2 * (5 * 5 * (3 + 6) + 75 * 3) * 64 * 5  # one task's steps in second order, and its queries
    of_one = replace(W3, meta_batch_size=2)
    assert of_one.flops() - of_one.convolution_flops() == pytest.approx(classifier)


def test_of_blocks_grows_with_every_pass():
    first, second = (replace(block, tasks=1, images=1) for block in blocks.QUICK)
    assert [first.flops(p) / first.flops("forward") for p in blocks.PASSES] == [1, 2, 4]
    assert [second.flops(p) / second.flops("forward") for p in blocks.PASSES] == [1, 3, 9]


def functional(model, weights, x):
    return torch.func.functional_call(model, dict(zip(dict(model.named_parameters()), weights, strict=True)), (x,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WrongLoss, "Q2: wrong loss against maml_fast, losses in float64: relative error 1.0e-08"),
        (FirstOrder, "meta-gradient in float64"),
        (NoGradient, r"meta-gradient in float64: relative error 1.0e\+00"),
        (NotANumber, "losses in float64: relative error inf"),
        (OnlyFloat32IsWrong, "loss in float32: relative error 1.0e-01"),
    ],
)
def test_a_wrong_peer_is_not_timed(wrong, message):
    with pytest.raises(parity.ParityError, match=message):
        parity.check(Q2, wrong)


def test_a_right_peer_is():
    errors = parity.check(Q2, TRUTH)
    assert max(errors.loss, errors.gradient) < parity.TOLERANCE


def test_a_wrong_score_after_an_earlier_step_is_seen():
    class WrongEarly(TaskLoop):
        def backward(self, episodes):
            losses = super().backward(episodes)
            losses[0] = losses[-1]
            return losses

    with pytest.raises(parity.ParityError, match="losses"):
        parity.check(Q1, WrongEarly)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(parity.ParityError, match="nothing to compare"):
        parity.relative_error([torch.ones(2)], [torch.zeros(2)])


@pytest.mark.parametrize("until", blocks.PASSES)
def test_a_wrong_block_is_not_timed(until):
    def wrong(*tensors, relu_first, **options):
        return per_task_block(*tensors, relu_first=not relu_first, **options)

    with pytest.raises(parity.ParityError, match=f"small block 2.*{until}"):
        parity.check_block(blocks.QUICK[1], wrong, until)


@pytest.mark.parametrize("workload", workloads.ALL, ids=lambda workload: workload.name)
def test_network_and_models_of_a_workload_are_one_function(workload):
    start, x = workload.start(torch.float64), torch.rand(3, *workload.image_shape, dtype=torch.float64)
    expected = workload.model_at(start)(x)
    for network in (workload.network, workload.network.with_elementary_batch_norm()):
        torch.testing.assert_close(network(start, x), expected)
    torch.testing.assert_close(workload.torch_model(start)(x), expected)


def test_a_torch_model_lists_its_parameters_in_the_same_order():
    for workload in WORKLOADS:
        start = workload.start(torch.float32)
        for parameter, value in zip(workload.torch_model(start).parameters(), start, strict=True):
            assert torch.equal(parameter, value)


PLAIN = [peer for peer in of_use_on("cpu") if peer.quick_environment == {}]  # a compiler would take half a minute


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("peer", PLAIN, ids=lambda peer: peer.name)
def test_every_peer_agrees(peer, order):
    """With scores on the way, and more tasks than one; those that can't run say why."""
    workload = replace(Q2, name="Q", order=order, inner_steps=2, scored=(0, 1), meta_batch_size=3)
    if peer.obstacle(workload) is None:
        parity.check(workload, TRUTH if peer is parity.OURS else peer)
    else:
        assert peer.library is not None or peer.name == "tutorial"


def test_the_tutorials_loop_agrees_on_its_own_net():
    parity.check(Q1, TUTORIAL)
