"""What folding, equalisation and fake quantization read in the graph of a network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, fx, nn

from ..errors import ModelError
from ..models.build import keeping_modes

if TYPE_CHECKING:
    from collections.abc import Mapping

CONVOLUTIONS: Mapping[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
TRANSPOSED: Mapping[type[nn.Module], int] = {
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
Layer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_SHAPE_QUERIES = ("size", "dim", "getattr")  # read no value of the tensor


class Traced:
    """A network with its graph, in eval mode.

    Args:
        model: put into eval mode.

    Attributes:
        model: it.
        graph: its steps, over its own modules; without `nn.Identity`, which folding leaves.
        modules: its modules by path.

    Raises:
        ModelError: torch.fx cannot follow its forward().
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.graph = trace(model)
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self._calls = Counter(str(n.target) for n in self.graph.nodes if n.op == "call_module")
        self._read = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"}
        _leave_out_identities(self.graph, self.modules)
        self._owners = Counter(
            id(parameter)
            for module in model.modules()
            for _, parameter in module.named_parameters(recurse=False)
        )

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a step calls; None for a function."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_own(self, node: fx.Node) -> bool:
        """Whether only this step reads the weights of its module: they may be rescaled for it."""
        path, module = str(node.target), self.module(node)
        if module is None or self._calls[path] > 1:
            return False
        shared = any(self._owners[id(p)] > 1 for p in module.parameters())
        return not shared and not any(name.startswith(f"{path}.") for name in self._read)

    def operation(self, node: fx.Node) -> type[nn.Module] | str:
        """Type of the module, or name of the function or method; in place is called like its twin.

        A function that is not of torch, of its operators or of Python keeps the module's name in
        front, so that it is not taken for one of theirs.
        """
        if node.op == "call_module":
            return type(self.modules[str(node.target)])
        if isinstance(node.target, str):
            return node.target.removesuffix("_")
        name = getattr(node.target, "__name__", repr(node.target))
        home = getattr(node.target, "__module__", None) or "torch"
        known = home.split(".")[0] in ("torch", "_operator", "builtins")
        return name.removesuffix("_") if known else f"{home}.{name}"

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Steps that read the values of a result, not its shape alone."""
        return [user for user in node.users if self.operation(user) not in _SHAPE_QUERIES]


def trace(model: nn.Module) -> fx.Graph:
    """The steps of a network in eval mode; it is left in the modes that it was in.

    Raises:
        ModelError: torch.fx cannot follow its forward().
    """
    try:
        with keeping_modes(model):
            return fx.Tracer().trace(model.eval())
    except Exception as error:
        what = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{type(model).__name__} cannot be prepared for int8: torch.fx cannot follow its"
            f" forward(): {type(error).__name__}: {what}",
            "take `recover` and equalisation out of `quantize`, or write the forward() without"
            " branches and loops over values, until torch.fx.symbolic_trace(model) succeeds",
        ) from error


def _leave_out_identities(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    for node in calls:
        before = source(node)
        if type(modules[str(node.target)]) is nn.Identity and before is not None:
            node.replace_all_uses_with(before)
            graph.erase_node(node)


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of a step, by its place or its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under every name that it has."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new)


def output_axis(layer: nn.Module) -> int:
    """Axis of the output channels in a layer's weight."""
    return 1 if type(layer) in TRANSPOSED else 0


def source(node: fx.Node) -> fx.Node | None:
    """The tensor that a step works on: its first argument."""
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return first if isinstance(first, fx.Node) else None


def as_parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    """A parameter of these values, in type and place and layout of another."""
    new = values.detach().to(like.dtype).reshape(like.shape)
    return nn.Parameter(new.clone(), requires_grad=like.requires_grad)
