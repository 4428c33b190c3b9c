"""What users write, as a table: each network with the number of runs that fuse() must find in it.

None is found where the whole forward can't be recorded: it writes to its input, sets attributes, switches gradients
off, depends on values, or returns anything but one tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fuse_nets import (
    Buffered,
    Conv4Plain,
    DataDependent,
    Functional,
    Gated,
    ListOfLayers,
    Meddler,
    Net,
    Pair,
    Residual,
    ShapeDependent,
    SharedTwice,
    Sliced,
    Subclasses,
    TensorOfItsOwn,
    TwoInputs,
    attribute_set,
    attributes_first,
    augmented_alias,
    block,
    block3,
    computed_checked,
    computed_weight,
    layers,
    no_gradient,
    norm_as_its_own_scale,
    output_overwritten,
    relu_in_place_discarded,
    seen_between,
    standardized,
    tensor_checked,
    tensor_frozen,
    tensor_made,
    torch_batch_norm,
    training_read,
    view_between,
)
from torch import Tensor, nn

from maml_fast.fusion import fuse
from maml_fast.nn import BatchStatNorm2d, ConvBlock


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    fused: int
    shapes: tuple[tuple[int, ...], ...] = ((4, 2, 9, 9),)

    def __str__(self) -> str:
        return self.name


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(nn.Sequential(*layers))


def order(letters: str, fused: int = 1, **options: object) -> Case:
    name = f"{letters} {options}" if options else letters
    return Case(name, lambda: nn.Sequential(*layers(letters, **options)), fused, ((4, options.get("cin", 2), 9, 9),))


def net(name: str, forward: Callable[[Net, Tensor], Tensor], fused: int = 1, **layers: nn.Module) -> Case:
    return Case(name, lambda: Net(forward, **copy.deepcopy(layers)), fused)


ORDERS = [
    order("CBRP"),
    order("CBPR"),
    order("CRBP"),
    order("CBR"),
    order("CRB"),
    order("CB", 0),
    order("CR", 0),
    order("CP", 0),
    order("CPBR", 0),
    order("CRPB", 0),
    order("CPRB", 0),
    order("CBRR"),
    order("CRBR"),
    order("CRBRP"),
    order("CBRPB"),
    order("CBBR", 0),
    order("BCBRP", cin=3),
    order("RCBPR", 0, inplace=True),
    order("CBRP", inplace=True),
    order("CBPR", inplace=True),
    order("CRBP", inplace=True),
]

GEOMETRIES = [
    *(order("CBRP", stride=s, kernel_size=k, padding=p) for s, k, p in [(1, 1, 0), (2, 3, 1), (3, 5, 2), (2, 3, 2)]),
    *(order("CBR", stride=s, kernel_size=k, padding=p) for s, k, p in [(3, 1, 0), (1, 3, 0), (2, 5, 4), (3, 3, 1)]),
    order("CBRP", bias=False),
    order("CRBP", bias=False),
    order("CBRP", padding="same"),
    order("CBRP", padding="valid"),
    order("CBR", padding="same", kernel_size=5),
    order("CBRP", 0, padding=(1, 0)),
    order("CBRP", 0, kernel_size=(3, 1)),
    order("CBRP", 0, kernel_size=2),
    order("CBRP", 0, kernel_size=7, padding=3),
    order("CBRP", 0, stride=4),
    order("CBRP", 0, stride=(1, 2)),
    order("CBRP", 0, dilation=2),
    order("CBRP", padding_mode="reflect"),
    Case(
        "grouped", lambda: nn.Sequential(*layers("CBR"), nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.ReLU()), 1
    ),
]

POOLS = [
    Case(f"pool {kernel} {options}", lambda k=kernel, o=options: nn.Sequential(*layers("CBR"), nn.MaxPool2d(k, **o)), 1)
    for kernel, options in [
        (3, {}),
        (2, {"stride": 1}),
        (2, {"padding": 1}),
        (2, {"ceil_mode": True}),
        (2, {"dilation": 2}),
        ((2, 2), {"stride": [2, 2]}),
    ]
] + [
    Case("pool 3 before ReLU", lambda: nn.Sequential(*layers("CB"), nn.MaxPool2d(3, padding=1), nn.ReLU()), 0),
    Case("average pool", lambda: nn.Sequential(*layers("CBR"), nn.AvgPool2d(2)), 1),
    Case("average pool before ReLU", lambda: nn.Sequential(*layers("CB"), nn.AvgPool2d(2), nn.ReLU()), 0),
]

NORMS = [
    Case("affine=False", sequence(*layers("C"), nn.BatchNorm2d(3, affine=False), *layers("RP")), 1),
    Case("momentum=None", sequence(*layers("C"), nn.BatchNorm2d(3, momentum=None), *layers("RP")), 0),
    Case("no running stats", sequence(*layers("C"), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()), 1),
    Case("eps", sequence(*layers("C"), nn.BatchNorm2d(3, eps=0.3), nn.ReLU()), 1),
    Case("shift alone", sequence(*layers("C"), BatchStatNorm2d(3, 1e-3, gamma=False), nn.ReLU()), 1),
    Case("GroupNorm", sequence(*layers("C"), nn.GroupNorm(3, 3), nn.ReLU(), *layers("CBR", cin=3)), 1),
    Case("InstanceNorm", sequence(*layers("C"), nn.InstanceNorm2d(3, affine=True), nn.ReLU()), 0),
    Case("BatchNorm1d", sequence(*layers("CBRP"), nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6), nn.ReLU()), 1),
    Case("BatchNorm1d of sequences", sequence(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU()), 0, ((4, 2, 9),)),
    Case("BatchNorm3d", sequence(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), nn.ReLU()), 0, ((4, 2, 4, 4, 3),)),
    Case("SyncBatchNorm", sequence(*layers("C"), nn.SyncBatchNorm(3), nn.ReLU()), 1),
    Case("Identity", sequence(*layers("CB"), nn.Identity(), *layers("R"), nn.Identity(), nn.MaxPool2d(2)), 1),
    Case("Dropout of nothing", sequence(*layers("CBR"), nn.Dropout(0.0), *layers("CBRP", cin=3)), 2),
]

FORWARDS = [
    net("F.relu", lambda m, x: F.max_pool2d(F.relu(m.bn(m.conv(x))), 2)),
    net("F.relu inplace", lambda m, x: F.max_pool2d(F.relu(m.bn(m.conv(x)), inplace=True), (2, 2), stride=2)),
    net("torch.relu", lambda m, x: torch.relu(F.max_pool2d(input=m.bn(m.conv(x)), kernel_size=2))),
    net("torch.relu_", lambda m, x: F.max_pool2d(m.bn(torch.relu_(m.conv(x))), 2, 2)),
    net("method relu", lambda m, x: m.bn(m.conv(x).relu())),
    net("method relu_", lambda m, x: m.bn(m.conv(x)).relu_()),
    net("forward called", lambda m, x: F.relu(m.bn.forward(m.conv.forward(x)))),
    net("two halves", lambda m, x: torch.cat([F.relu(m.bn(m.conv(h))) for h in (x[:2], x[2:])]), 2),
    net("keyword input", lambda m, x: F.relu(input=m.bn(input=m.conv(input=x)))),
    net("relu_ discarded", relu_in_place_discarded),
    net("pool with indices", lambda m, x: F.max_pool2d(m.bn(m.conv(x)).relu(), 2, return_indices=True)[0]),
    net("torch.batch_norm", torch_batch_norm),
    net("training read", training_read),
    net("x += 1 seen through an alias", augmented_alias),
    net("output overwritten", output_overwritten),
    net("view", lambda m, x: F.max_pool2d(F.relu(m.bn(m.conv(x))), 2).view(x.size(0), -1)),
    net("view of a sum", lambda m, x: (F.relu(m.bn(m.conv(x))) + x[:, :1]).view(x.size(0), -1, 3)),
    net("seen between", seen_between, 0),
    net("view between", view_between, 0),
    net("computed scale", norm_as_its_own_scale, 0),
    net("computed weight", computed_weight),
    net("clamp", lambda m, x: m.bn(m.conv(x)).clamp(min=0), 0),
    net("leaky", lambda m, x: F.leaky_relu(m.bn(m.conv(x))), 0),
    net("adaptive pool", lambda m, x: F.adaptive_max_pool2d(F.relu(m.bn(m.conv(x))), 2)),
    net("tensor made", tensor_made, block=block()),
    net("tensor frozen", tensor_frozen, block=block()),
    net("no_grad inside", no_gradient, 0, block=block(), other=block3()),
    net("attribute set", attribute_set, 0, block=block()),
    net("isinstance", tensor_checked),
    net("isinstance of a computed value", computed_checked, block=block()),
    net("attributes first", attributes_first),
    net("unpacked shape", lambda m, x: F.relu(m.bn(m.conv(x))).reshape(x.shape[0], -1)),
]

MODELS = [
    Case("Conv4Plain", Conv4Plain, 4, ((4, 2, 17, 17),)),
    Case("Functional", Functional, 2, ((4, 2, 9, 9),)),
    Case("Residual", Residual, 1),
    Case("SharedTwice", SharedTwice, 3),
    Case("ShapeDependent", ShapeDependent, 4),
    Case("DataDependent", DataDependent, 0),
    Case("Gated", Gated, 2),
    Case("Pair", Pair, 2, ((4, 2, 5, 5), (4, 2, 5, 5))),
    Case("TwoInputs", TwoInputs, 0, ((4, 2, 5, 5), (4, 2, 5, 5))),
    Case("Subclasses", Subclasses, 2),
    Case("Buffered", Buffered, 1),
    Case("a tensor of its own", TensorOfItsOwn, 0),
    Case("Meddler", Meddler, 0),
    Case("Sliced", Sliced, 2),
    Case("parametrised", lambda: nn.Sequential(standardized(nn.Conv2d(2, 3, 3)), *layers("BRP")), 1),
    Case("fused before", lambda: nn.Sequential(fuse(block()), *layers("CBRP", cin=3)), 2),
    Case("ListOfLayers", ListOfLayers, 1),
    Case("ConvBlock", lambda: nn.Sequential(ConvBlock(2, 3), ConvBlock(3, 3, relu_first=True, pool=None)), 2),
    Case("no convolution", lambda: nn.Sequential(nn.Flatten(), nn.Linear(162, 4), nn.BatchNorm1d(4)), 0),
]

CASES = ORDERS + GEOMETRIES + POOLS + NORMS + FORWARDS + MODELS

OVERWRITES_ITS_INPUT = "RCBPR {'inplace': True}"  # nothing that sees the same images twice can be made with it
