"""Low-rank factorization of one kernel, in numpy: spectra, then factors that reproduce the layer's outputs best.

Kernels have the form (height, width, in, out): a dense one is (1, 1, in, out), one of a Conv1D (length, 1, in, out).
A factorization is a chain of convolutions without anything between them:

    svd       height x width -> rank, then 1 x 1 -> out        Zhang et al. 2015, arXiv 1505.06798
    spatial   height x 1 -> rank, then 1 x width -> out        Jaderberg et al. 2014, arXiv 1405.3866
    tucker2   1 x 1 -> rank 1, height x width -> rank 2, 1 x 1 -> out     Kim et al. 2016, arXiv 1511.06530

Ranks are chosen by the weights alone, so that they can be known without data. Given the second moments of the inputs,
the factors of that rank are those with the least squared error of the outputs instead of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Method = Literal["svd", "spatial", "tucker2"]
METHODS: tuple[Method, ...] = get_args(Method)

# Share of the identity in the moments of the inputs: directions that the samples never took still count a little.
_RIDGE = 1e-3


def methods_of(kernel: np.ndarray) -> tuple[Method, ...]:
    """The factorizations that differ for a kernel: one for 1 x 1, all for a kernel with height and width."""
    height, width = kernel.shape[:2]
    if height * width == 1:
        return ("svd",)
    return METHODS if width > 1 else ("svd", "tucker2")


def full_ranks(kernel: np.ndarray, method: Method) -> tuple[int, ...]:
    """The ranks at which a factorization is exact whatever the weights: one, or two for tucker2."""
    height, width, inputs, outputs = kernel.shape
    if method == "tucker2":
        return inputs, outputs
    if method == "spatial":
        return (min(height * inputs, width * outputs),)
    return (min(height * width * inputs, outputs),)


def kept_energy(
    kernel: np.ndarray, method: Method, moments: np.ndarray | None = None, first_ranks: Sequence[int] | None = None
) -> np.ndarray:
    """What `factorize` keeps of the squared outputs, as a fraction, for every rank: 1 minus its relative error.

    Without moments these are squared weights, and for svd and spatial the sums of squared singular values (Eckart and
    Young 1936).

    Args:
        kernel: Shape (height, width, in, out), not all zero.
        method: See the module.
        moments: As in `factorize`.
        first_ranks: Of tucker2: compute these rows only; the others are 0. None: all.

    Returns:
        By rank from 0, shape (full rank + 1,); for tucker2 by both ranks, shape (in + 1, out + 1).
    """
    flat = kernel.reshape(-1, kernel.shape[-1])
    full, moments = full_ranks(kernel, method), _ridged(moments)
    total = float(np.sum(flat * (flat if moments is None else moments @ flat)))
    kept = np.zeros([rank + 1 for rank in full])
    if method == "svd":
        kept[1:] = _spectrum(_outer(flat, moments))[: full[0]].cumsum()
    else:
        basis = _first_basis(kernel, method, full[0], moments)
        explained = _explained(flat, _response(basis, kernel.shape, method), moments)
        # Rows of one rank are neighbours, so that the first rows are those of all lower ranks.
        rows = len(explained) // full[0]
        if method == "spatial":
            kept[1:] = np.square(explained).sum(1).reshape(full[0], rows).sum(1).cumsum()
        else:
            for rank in range(1, full[0] + 1) if first_ranks is None else first_ranks:
                kept[rank, 1:] = _spectrum(_outer(explained[: rank * rows], None)).cumsum()
    return np.minimum(kept / total, 1.0)


def factorize(
    kernel: np.ndarray, method: Method, ranks: tuple[int, ...], moments: np.ndarray | None = None
) -> list[np.ndarray]:
    """Kernels of the chain that stands in for a kernel.

    Args:
        kernel: Shape (height, width, in, out).
        method: See the module.
        ranks: One, or two for tucker2; each from 1 to `full_ranks`.
        moments: Mean of the outer products of the patches that the kernel meets, shape (n, n) with
            n = height * width * in in that order; None: all weights count alike.

    Returns:
        Two kernels, or three for tucker2, shapes (height, width, in, out).
    """
    height, width, inputs, outputs = kernel.shape
    flat, moments = kernel.reshape(-1, outputs), _ridged(moments)
    if method == "svd":
        directions = _directions(_outer(flat, moments), ranks[0])
        return _balanced([(flat @ directions).reshape(height, width, inputs, -1), directions.T[None, None]])
    basis = _first_basis(kernel, method, ranks[0], moments)
    response = _response(basis, kernel.shape, method)
    fitted = _fitted(flat, response, moments)
    if method == "spatial":
        second = fitted.reshape(ranks[0], width, outputs).swapaxes(0, 1)
        return _balanced([basis.reshape(height, 1, inputs, -1), second[None]])
    directions = _directions(_outer(fitted, _outer(response, moments)), ranks[1])
    core = (fitted @ directions).reshape(ranks[0], height, width, -1).transpose(1, 2, 0, 3)
    return _balanced([basis[None, None], core, directions.T[None, None]])


def composed(factors: list[np.ndarray], method: Method) -> np.ndarray:
    """The kernel that a chain of factors amounts to, shape (height, width, in, out)."""
    if method == "spatial":
        return np.asarray(np.einsum("hir,wro->hwio", factors[0][:, 0], factors[1][0], optimize=True))
    kernel = factors[-2] @ factors[-1][0, 0]
    return (
        kernel if method == "svd" else np.asarray(np.einsum("ir,hwro->hwio", factors[0][0, 0], kernel, optimize=True))
    )


def _ridged(moments: np.ndarray | None) -> np.ndarray | None:
    if moments is None or np.trace(moments) <= 0:
        return None  # Inputs that never change say nothing.
    return np.asarray(moments + _RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments)))


def _outer(matrix: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
    """Second moments of x @ matrix, for x with those moments."""
    return np.asarray(matrix.T @ (matrix if moments is None else moments @ matrix))


def _spectrum(outer: np.ndarray) -> np.ndarray:
    """Eigenvalues, falling."""
    return np.maximum(np.linalg.eigvalsh(outer)[::-1], 0)


def _directions(outer: np.ndarray, rank: int) -> np.ndarray:
    """The first principal directions, shape (n, rank).

    Outputs projected on theirs are the best answer of that rank, and projecting them takes no inverse.
    """
    return np.linalg.eigh(outer)[1][:, ::-1][:, :rank]


def _first_basis(kernel: np.ndarray, method: Method, rank: int, moments: np.ndarray | None) -> np.ndarray:
    """The first factor of spatial, shape (height * in, rank), or of tucker2, (in, rank): orthonormal columns.

    They are those whose responses tell most of the outputs, one by one in that order, if the columns of a patch
    (tucker2: all its positions) are taken for independent.
    """
    height, width, inputs, outputs = kernel.shape
    seen: np.ndarray | None = None
    if method == "spatial":
        matrix = kernel.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)
        if moments is not None:
            grid = moments.reshape(height, width, inputs, height, width, inputs)
            seen = np.einsum("hwigwj->higj", grid).reshape(height * inputs, height * inputs)
    else:
        matrix = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
        if moments is not None:
            grid = moments.reshape(height * width, inputs, height * width, inputs)
            seen = np.einsum("pipj->ij", grid)
    if seen is None:
        return _directions(matrix @ matrix.T, rank)
    root = np.linalg.cholesky(seen)
    weighted = root.T @ matrix
    return np.linalg.qr(np.linalg.solve(root.T, _directions(weighted @ weighted.T, rank)))[0]


def _response(basis: np.ndarray, shape: tuple[int, ...], method: Method) -> np.ndarray:
    """A patch -> what the first factor makes of it, shape (height * width * in, rank * places), rank by rank.

    The places are the columns of the patch for spatial, all its positions for tucker2.
    """
    height, width, inputs, _ = shape
    rank = basis.shape[1]
    if method == "spatial":
        spread = np.einsum("hir,wv->hwirv", basis.reshape(height, inputs, rank), np.eye(width))
    else:
        spread = np.einsum("ir,pq->pirq", basis, np.eye(height * width))
    return np.asarray(spread).reshape(height * width * inputs, -1)


def _explained(matrix: np.ndarray, response: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
    """Rows whose squares add up to what each column of a response, after those before it, tells of x @ matrix."""
    if moments is None:
        return np.asarray(response.T @ matrix)  # Its columns are orthonormal.
    weighted = response.T @ moments
    return np.linalg.solve(np.linalg.cholesky(weighted @ response), weighted @ matrix)


def _fitted(matrix: np.ndarray, response: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
    """Least squares: what, applied to x @ response, comes nearest to x @ matrix."""
    if moments is None:
        return np.asarray(response.T @ matrix)
    weighted = response.T @ moments
    return np.linalg.solve(weighted @ response, weighted @ matrix)


def _balanced(factors: list[np.ndarray]) -> list[np.ndarray]:
    """Scale the channels between two factors until both have the same norm there.

    Quantization gives all channels of an activation one scale: with every singular value on one side, the weak
    channels, or the weights that read them, would have few levels left.
    """
    for index in range(len(factors) - 1):
        before, after = factors[index], factors[index + 1]
        norms = np.linalg.norm(before.reshape(-1, before.shape[-1]), axis=0)
        others = np.linalg.norm(np.moveaxis(after, 2, 0).reshape(after.shape[2], -1), axis=1)
        scale = np.sqrt(np.divide(others, norms, out=np.ones_like(norms), where=(norms > 0) & (others > 0)))
        factors[index], factors[index + 1] = before * scale, after / scale[:, None]
    return factors
