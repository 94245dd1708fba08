"""What a model's inputs say about its weights: norms and moments for a recipe, and masks for fine-tuning.

Import it where the model runs; a model of plain numpy needs nothing else, one of PyTorch has its hooks set here:

    recorder = Recorder()
    handles = attach(model, recorder)
    for batch in batches_of_one_task:
        with recorder.only(batch["attention_mask"]):  # Where there is padding: it must not count.
            model(**batch)
    for handle in handles:
        handle.remove()
    recorder.save(norms="highway-norms.safetensors", moments="highway-moments.safetensors")

A recipe's task then has `norms: highway-norms.safetensors` and, to solve the kept weights anew, `moments:
highway-moments.safetensors`. Fine-tune under the masks that `synchromesh align RECIPE --masks-out FILE` chose, save a
checkpoint, and give it to the task as `checkpoint`:

    masks, block = load_masks("masks.safetensors", "highway")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in masks)  # A bundle takes nothing else from a checkpoint.
    handles = apply_masks(model, masks, block, optimizer)
    ...  # Train as ever.
    safetensors.torch.save_file({name: model.state_dict()[name] for name in masks}, "highway.safetensors")

docs/training.md goes through all of it. Needs numpy and safetensors; PyTorch only where a PyTorch model is handed in.
"""

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

if TYPE_CHECKING:
    import torch

Tensors = dict[str, np.ndarray]

# Tokens multiplied at once: bounds the memory, and the error of a sum in float32.
BLOCK_TOKENS = 4096


class Recorder:
    """Adds up what one task's inputs do at each weight. Sums are float64.

    Second moments take 8 bytes for each pair of a weight's input channels, twice that with cross moments:
    `second=False` leaves both out, and `attach` can be held to some weights.
    """

    def __init__(self, *, second: bool = True) -> None:
        self._second = second
        self._selected: np.ndarray | None = None
        # By weight.
        self.tokens: dict[str, int] = {}
        self._squares: Tensors = {}
        self._moments: Tensors = {}
        self._cross: Tensors = {}

    def observe(self, name: str, inputs: np.ndarray, dense: np.ndarray | None = None) -> None:
        """Takes `inputs` [..., in] of the weight `name`; as `dense`, what the dense network has in their place.

        With `dense`, the moments are those of `inputs`, the pruned network's, and cross moments are kept besides.
        """
        if dense is not None and not self._second:
            raise ValueError(f"{name}: the dense network's input without second moments: leave out `second=False`")
        if self._second and name in self.tokens and (dense is None) != (name not in self._cross):
            raise ValueError(f"{name}: seen with and without the dense network's input: give it always or never")
        y = self._rows(name, inputs)
        if dense is not None:
            dense = self._rows(name, dense)
            if dense.shape != y.shape:
                raise ValueError(
                    f"{name}: inputs {y.shape}, but {dense.shape} in the dense network: give the same tokens"
                )
        self.tokens[name] = self.tokens.get(name, 0) + len(y)
        self._add(self._squares, name, np.square(y, dtype=np.float64).sum(axis=0))
        if self._second:
            self._add(self._moments, name, self._product(y, y))
            if dense is not None:
                self._add(self._cross, name, self._product(dense, y))

    @contextmanager
    def only(self, selected: Any) -> Iterator[None]:
        """Within it only the tokens count where `selected`, of the inputs' shape without the last axis, is not 0.

        An array, a list, or a tensor of PyTorch wherever it is.
        """
        on_host = selected.cpu() if hasattr(selected, "cpu") else selected
        before, self._selected = self._selected, np.asarray(on_host) != 0
        try:
            yield
        finally:
            self._selected = before

    def norms(self) -> Tensors:
        """For each weight [in]: the root mean square over tokens of each input channel."""
        return {name: np.sqrt(sums / self.tokens[name]).astype(np.float32) for name, sums in self._squares.items()}

    def moments(self) -> Tensors:
        """For each weight [in, in]: the mean over tokens of y y^T, y being the input."""
        return self._means(self._moments)

    def cross(self) -> Tensors:
        """For each weight [in, in]: the mean over tokens of x y^T, y being the input, x that of the dense network.

        Only of weights that were observed with `dense`.
        """
        return self._means(self._cross)

    def save(
        self, *, norms: str | Path | None = None, moments: str | Path | None = None, cross: str | Path | None = None
    ) -> None:
        """Writes the files that are named, for the keys of a recipe's task that have the same names."""
        for kind, path, means in (
            ("norms", norms, self.norms),
            ("moments", moments, self.moments),
            ("cross", cross, self.cross),
        ):
            if path is not None:
                if not (tensors := means()):
                    raise ValueError(
                        f"{path}: no {kind} to write: run the model while it is observed; moments need a recorder "
                        "without `second=False`, and cross moments `dense` inputs too"
                    )
                write(Path(path), tensors, {"value": f"{kind} of each weight's inputs"})

    def _rows(self, name: str, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if self._selected is not None:
            if self._selected.shape != x.shape[:-1]:
                raise ValueError(
                    f"{name}: inputs of shape {x.shape}, but only() chose among tokens {self._selected.shape}: "
                    "observe weights whose inputs have other tokens by themselves"
                )
            x = x[self._selected]
        x = x.reshape(-1, x.shape[-1])
        if not len(x):
            raise ValueError(f"{name}: no token to learn from: skip such a batch")
        if name in self._squares and x.shape[1] != len(self._squares[name]):
            raise ValueError(
                f"{name}: {x.shape[1]} input channels after {len(self._squares[name])} before: "
                "one weight's inputs are always as many"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: an input is not finite: find the layer before it that overflows")
        return x

    @staticmethod
    def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        total = np.zeros((left.shape[1], right.shape[1]))
        for start in range(0, len(left), BLOCK_TOKENS):
            rows = slice(start, start + BLOCK_TOKENS)
            total += left[rows].astype(np.float32, copy=False).T @ right[rows].astype(np.float32, copy=False)
        return total

    def _means(self, sums: Tensors) -> Tensors:
        return {name: (total / self.tokens[name]).astype(np.float32) for name, total in sums.items()}

    @staticmethod
    def _add(sums: Tensors, name: str, value: np.ndarray) -> None:
        if name in sums:
            sums[name] += value
        else:
            sums[name] = value


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Beside the target, then renamed: a file is there whole, or not at all."""
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(save(tensors, metadata))
    os.replace(temporary, path)


def load_masks(path: str | Path, task: str) -> tuple[Tensors, tuple[int, int]]:
    """A task's masks from what `synchromesh align --masks-out` wrote, and a block's rows and columns.

    A mask is U8, one element a block, under the name of its weight.
    """
    prefix = f"{task}/"
    with safe_open(path, "numpy") as file:
        about = (file.metadata() or {}).get("block")
        if about is None:
            raise ValueError(f"{path}: does not say what a block is: take what `synchromesh align --masks-out` wrote")
        masks = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
        if not masks:
            tasks = ", ".join(sorted({name.partition("/")[0] for name in file.keys()}))
            raise ValueError(f"{path}: no masks of task {task!r}: name one of {tasks}")
    block = json.loads(about)
    return masks, (block["rows"], block["cols"])


def expand(mask: np.ndarray, block: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """From one element a block to one, true or false, an element of the weight."""
    grid = tuple(math.ceil(size / step) for size, step in zip(shape, block, strict=True))
    if mask.shape != grid:
        raise ValueError(f"a mask of shape {mask.shape}, where blocks of {block} in a weight of {shape} need {grid}")
    return np.repeat(np.repeat(mask != 0, block[0], axis=0), block[1], axis=1)[: shape[0], : shape[1]]


def elimination_costs(
    weight: np.ndarray, moments: np.ndarray, block: tuple[int, int], damping: float = 0.1
) -> np.ndarray:
    """For each block of a weight: what it costs to do without it, once the cheaper blocks of its row are gone.

    Costs are squared errors of the weight's output, with all remaining blocks solved anew each time, as a recipe's
    `reconstruct` would for this task alone; but there `damping` scales the mean moment of kept channels, here that of
    all. Blocks that others can stand in for cost little, however large they are. A block's cost is never below that of
    those that went before, so the dearest ones are the ones to keep.
    """
    if damping <= 0:
        raise ValueError(f"damping of {damping}: it must be above 0, or channels that are alike have no single answer")
    grid = tuple(math.ceil(size / step) for size, step in zip(weight.shape, block, strict=True))
    inputs = weight.shape[1]
    if moments.shape != (inputs, inputs):
        raise ValueError(
            f"moments of shape {moments.shape} for a weight of {weight.shape}: they must be {(inputs, inputs)}"
        )
    # Whole blocks only: what is added is zero and costs nothing.
    weights = np.zeros((grid[0] * block[0], grid[1] * block[1]))
    weights[: weight.shape[0], :inputs] = weight
    second = np.zeros((weights.shape[1],) * 2)
    second[:inputs, :inputs] = moments
    pull = damping * second.trace() / inputs
    if pull <= 0:
        # No input is ever anything but 0.
        return np.zeros(grid)
    inverse = np.linalg.inv(second + pull * np.eye(len(second)))
    return np.array([_eliminate(rows, inverse, block[1]) for rows in np.split(weights, grid[0])])


def _eliminate(weights: np.ndarray, inverse: np.ndarray, cols: int) -> np.ndarray:
    """The costs of one row of blocks, by taking the cheapest out of it until none is left."""
    left = list(range(weights.shape[1] // cols))
    costs = np.empty(len(left))
    dearest = 0.0
    while left:
        own = np.arange(len(left))
        diagonal = inverse.reshape(len(left), cols, len(left), cols)[own, :, own, :]
        parts = weights.reshape(len(weights), len(left), cols).transpose(1, 2, 0)
        prices = (parts * np.linalg.solve(diagonal, parts)).sum(axis=(1, 2))
        cheapest = int(prices.argmin())
        dearest = max(dearest, prices[cheapest])
        costs[left.pop(cheapest)] = dearest
        gone = slice(cheapest * cols, (cheapest + 1) * cols)
        # The others take over, and their inverse is that of the moments without the block.
        shares = np.delete(np.linalg.solve(inverse[gone, gone], inverse[gone]), gone, axis=1)
        weights = np.delete(weights, gone, axis=1) - weights[:, gone] @ shares
        column = np.delete(inverse[:, gone], gone, axis=0)
        inverse = np.delete(np.delete(inverse, gone, axis=0), gone, axis=1)
        inverse -= column @ shares
    return costs


def spread(costs: np.ndarray, block: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Costs of blocks as a recipe's `importance` takes them: for each element its share of its block's."""
    counts = [
        np.minimum(step, size - np.arange(blocks) * step)
        for size, step, blocks in zip(shape, block, costs.shape, strict=True)
    ]
    shares = costs / np.outer(*counts)
    return np.repeat(np.repeat(shares, block[0], axis=0), block[1], axis=1)[: shape[0], : shape[1]].astype(np.float32)


def attach(
    model: "torch.nn.Module", recorder: Recorder, names: Collection[str] | None = None
) -> "list[torch.utils.hooks.RemovableHandle]":
    """Lets the recorder see the inputs of each torch.nn.Linear, or of those whose weights are named.

    A weight has the name that it has in the model's state_dict, which is its name in a checkpoint. A Linear whose
    weight is used without calling it, as torch.nn.MultiheadAttention does, is not seen: observe its inputs yourself.
    Call `remove()` on each handle when done.
    """
    import torch

    def hook(name: str) -> Any:
        def observe(_module: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = args[0] if args else named["input"]
            recorder.observe(name, x.detach().float().cpu().numpy())

        return observe

    linears = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    wanted = linears if names is None else names
    if missing := sorted(set(wanted) - set(linears)):
        raise ValueError(f"{', '.join(missing)}: not the weight of a torch.nn.Linear of this model: leave it out")
    return [linears[name].register_forward_pre_hook(hook(name), with_kwargs=True) for name in wanted]


def apply_masks(
    model: "torch.nn.Module",
    masks: Mapping[str, np.ndarray],
    block: tuple[int, int],
    optimizer: "torch.optim.Optimizer | None" = None,
) -> "list[torch.utils.hooks.RemovableHandle]":
    """Zeroes what the masks leave out, now and, with an optimizer, after each of its steps.

    `block` is the recipe's rows and columns. Names and shapes of the model stay as they are, so its state_dict can be
    saved at any time, and what is masked is exactly zero in it. Other parameters are not frozen: that is the caller's
    to do. Call `remove()` on the handles to end it.
    """
    import torch

    parameters = dict(model.named_parameters())
    if missing := sorted(set(masks) - set(parameters)):
        raise ValueError(
            f"{', '.join(missing)}: masked, but not a parameter of this model: give masks of its own weights"
        )
    absent = []
    for name, mask in masks.items():
        weight = parameters[name]
        try:
            kept = expand(mask, block, tuple(weight.shape))
        except ValueError as error:
            raise ValueError(f"{name}: {error}: give masks and block of one recipe for this model") from error
        absent.append((weight, torch.from_numpy(~kept).to(weight.device)))

    def zero(*_: Any) -> None:
        with torch.no_grad():
            for weight, gone in absent:
                # Not a product: that would leave -0.0, and NaN where a value is not finite.
                weight.masked_fill_(gone, 0)

    zero()
    return [] if optimizer is None else [optimizer.register_step_post_hook(zero)]
