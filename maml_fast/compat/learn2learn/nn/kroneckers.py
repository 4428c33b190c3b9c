"""Layers whose matrices are Kronecker products.

Source: Jose et al. 2018, Kronecker Recurrent Units; Arnold et al. 2019, When MAML can adapt fast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, takes

__all__ = ["KroneckerLSTM", "KroneckerLinear", "KroneckerRNN"]

State = tuple[Tensor, Tensor]
Activation = Callable[[Tensor], Tensor]

_SIZES = {"n": int_from(1), "m": int_from(1), "bias": flag}


class KroneckerLinear(nn.Module):
    """Maps a matrix X [n, m] to L X R + B, which is the Kronecker product of R and L applied to its vector.

    Args:
        n, m: the sizes of the factors ``left`` [n, n] and ``right`` [m, m], which start as identities.
        bias: whether there is a bias [n, m], which starts as zeros.
        psd: whether L and R are the positive semi-definite ``left.T @ left`` and ``right.T @ right``.
        device: where the parameters are made.
    """

    @takes(**_SIZES, psd=flag)
    def __init__(
        self, n: int, m: int, bias: bool = True, psd: bool = False, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.eye(n, device=device))
        self.right = nn.Parameter(torch.eye(m, device=device))
        self.bias = nn.Parameter(torch.zeros(n, m, device=device)) if bias else None
        self.psd = psd

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., n, m], or a vector [n * m] that holds the columns of X, to a result of the same shape.

        Raises:
            ValueError: if x has another shape.
        """
        n, m = self.left.size(0), self.right.size(0)
        if x.dim() == 1:
            if x.size(0) != n * m:
                raise ValueError(f"x must have {n} * {m} elements, got {x.size(0)}")
            return self._map(x.reshape(m, n).t()).t().flatten()
        if x.shape[-2:] != (n, m):
            raise ValueError(f"x must end in the dimensions {n}, {m}, got shape {list(x.shape)}")
        return self._map(x)

    def _map(self, x: Tensor) -> Tensor:
        left = self.left.t() @ self.left if self.psd else self.left
        right = self.right.t() @ self.right if self.psd else self.right
        y = left @ x @ right
        return y if self.bias is None else y + self.bias


class KroneckerRNN(nn.Module):
    """A recurrent cell of Kronecker layers.

    Args:
        n, m, bias: as for :class:`KroneckerLinear`.
        sigma: the activation; tanh by default.
    """

    @takes(**_SIZES)
    def __init__(self, n: int, m: int, bias: bool = True, sigma: Activation | None = None) -> None:
        super().__init__()
        self.W_h = KroneckerLinear(n, m, bias=bias)
        self.U_h = KroneckerLinear(n, m, bias=bias)
        self.W_y = KroneckerLinear(n, m, bias=bias)
        self.sigma = nn.Tanh() if sigma is None else sigma

    def forward(self, x: Tensor, hidden: Tensor) -> State:
        """Return the output and the new hidden state, both of the shape of x."""
        new_hidden = self.sigma(self.W_h(x) + self.U_h(hidden))
        return self.W_y(new_hidden), new_hidden


class KroneckerLSTM(nn.Module):
    """An LSTM cell of Kronecker layers.

    Args:
        n, m, bias: as for :class:`KroneckerLinear`.
        sigma: the activation of the gates; the logistic function by default.
    """

    @takes(**_SIZES)
    def __init__(self, n: int, m: int, bias: bool = True, sigma: Activation | None = None) -> None:
        super().__init__()
        for gate in "ifgo":
            for what in "ih":
                self.add_module(f"W_{what}{gate}", KroneckerLinear(n, m, bias=bias))
        self.sigma = nn.Sigmoid() if sigma is None else sigma
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor, hidden: State) -> tuple[Tensor, State]:
        """Return the output and the new state (h, c), all of the shape of x."""
        h, c = hidden
        summed = {gate: getattr(self, f"W_i{gate}")(x) + getattr(self, f"W_h{gate}")(h) for gate in "ifgo"}
        c = self.sigma(summed["f"]) * c + self.sigma(summed["i"]) * self.tanh(summed["g"])
        h = self.sigma(summed["o"]) * self.tanh(c)
        return h, (h, c)
