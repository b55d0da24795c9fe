"""Rows of a graph as they are computed: sparse, and kept in files if wanted, so that a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor

from ..errors import AnalysisError
from ..files import disk_errors, write_whole
from ..reading import read_json
from .prompt import Brought

PLAN = "plan.json"


@frozen(eq=False)
class Rows:
    """Some rows."""

    node_R: Tensor
    edges_RC: Any
    """Scipy CSR in fp32, with what is exactly zero left out."""
    constant_R: Tensor
    total_R: Tensor

    @classmethod
    def of(cls, node_R: Tensor, brought: Brought, num_columns: int) -> Rows:
        """Rows as they were computed."""
        return cls(
            node_R.cpu(),
            _csr(brought.columns_RC.cpu().numpy(), brought.number_C.cpu().numpy().astype(np.int32), num_columns),
            brought.constant_R.cpu(),
            brought.total_R.cpu(),
        )

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Several as one."""
        tensors = (torch.cat([getattr(part, name) for part in parts]) for name in ("node_R", "constant_R", "total_R"))
        node_R, constant_R, total_R = tensors
        return cls(node_R, sparse.vstack([part.edges_RC for part in parts], format="csr"), constant_R, total_R)

    def tensors(self) -> dict[str, Tensor]:
        """What a file has of them."""
        edges_RC = self.edges_RC
        return {
            "node_R": self.node_R,
            "constant_R": self.constant_R,
            "total_R": self.total_R,
            **csr_tensors(edges_RC),
        }


def _csr(dense_RC: Any, number_C: Any, num_columns: int) -> Any:
    """Some columns of a matrix as scipy CSR, and no more entries than are not zero.

    Like scipy's own way, which goes by another form, at a third of its cost.
    """
    rows, columns = dense_RC.shape
    at = np.flatnonzero(dense_RC)
    indptr = np.searchsorted(at, np.arange(rows + 1) * columns)
    column = number_C[at - np.repeat(np.arange(rows) * columns, np.diff(indptr))]
    return sparse.csr_matrix((dense_RC.ravel()[at], column, indptr), shape=(rows, num_columns))


def csr_tensors(matrix: Any) -> dict[str, Tensor]:
    """A scipy CSR matrix as tensors."""
    return {
        "data": torch.from_numpy(np.ascontiguousarray(matrix.data, dtype=np.float32)),
        "indices": torch.from_numpy(np.ascontiguousarray(matrix.indices, dtype=np.int32)),
        "indptr": torch.from_numpy(np.ascontiguousarray(matrix.indptr, dtype=np.int64)),
    }


def csr_from_tensors(tensors: dict[str, Tensor], shape: tuple[int, int]) -> Any:
    """The other way round; `AnalysisError` where the tensors are not a matrix of this shape."""
    data, indices, indptr = (tensors[name].numpy() for name in ("data", "indices", "indptr"))
    fits = len(indptr) == shape[0] + 1 and len(data) == len(indices) and indptr[0] == 0 and indptr[-1] == len(data)
    inside = not len(indices) or (indices.min() >= 0 and indices.max() < shape[1])
    if not fits or not inside or (np.diff(indptr) < 0).any():
        raise AnalysisError(f"the edges in the file are not a matrix of {shape[0]} x {shape[1]}")
    return sparse.csr_matrix((data, indices, indptr), shape=shape)


@frozen(eq=False)
class RowStore:
    """All rows of a run so far. With a folder each addition is a file there, and a later run with the same plan finds
    them again."""

    num_columns: int
    folder: Path | None = None
    parts: list[Rows] = field(factory=list)

    @classmethod
    def begin(cls, num_columns: int, plan: dict[str, Any], folder: Path | None) -> RowStore:
        """What a stopped run with the same plan left, or nothing."""
        store = cls(num_columns, folder)
        if folder is None:
            return store
        try:
            same = read_json(folder / PLAN, AnalysisError) == plan
        except FileNotFoundError:
            same = False
        if not same:
            if folder.is_dir() and any(folder.iterdir()) and not (folder / PLAN).exists():
                raise AnalysisError(f"{folder} holds other files than rows of a graph; name another folder, or none")
            store.forget()
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / PLAN, json.dumps(plan))
        while (path := store._path()).is_file():
            try:
                tensors = load_file(path)
                shape = (len(tensors["node_R"]), num_columns)
                rows = Rows(
                    tensors["node_R"], csr_from_tensors(tensors, shape), tensors["constant_R"], tensors["total_R"]
                )
            except (SafetensorError, KeyError) as error:
                raise AnalysisError(f"{path} cannot be read; remove {folder} to begin anew: {error}") from error
            store.parts.append(rows)
        return store

    def add(self, rows: Rows) -> None:
        """Keep further rows."""
        if self.folder is not None:
            write_whole(self._path(), lambda path: save_file(rows.tensors(), path))
        self.parts.append(rows)

    def done(self) -> set[int]:
        """Nodes whose rows are there."""
        return {node for part in self.parts for node in part.node_R.tolist()}

    def forget(self) -> None:
        """Remove the files, and their folder if nothing else is in it: the graph is whole."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in [*self.folder.glob("rows-*.safetensors"), self.folder / PLAN]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"rows-{len(self.parts):05d}.safetensors"
