"""The type of a cost, and the costs that configs can name."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal, get_args

from wiring_lightning.costs.additive import multiply_adds, parameters
from wiring_lightning.costs.measured import Latency
from wiring_lightning.costs.prices import name_of_cost
from wiring_lightning.costs.scheduling import Order, SequentialSteps
from wiring_lightning.wiring import Wiring

Cost = Callable[[Wiring], Any]
CostName = Literal["multiply_adds", "parameters", "sequential_steps", "latency"]


def named_cost(name: CostName, machines: int = 1, order: Order = "critical_path") -> Cost:
    """The cost with a name.

    Args:
        name: `"multiply_adds"`, `"parameters"`, `"sequential_steps"` or `"latency"`.
        machines: for `"sequential_steps"`, number of nodes that can run at the same time.
        order: for `"sequential_steps"`, which nodes start first; see `SequentialSteps`.

    Raises:
        ValueError: if there is no such cost or order, or the cost does not depend on a number of
            machines or an order.

    Example:
        >>> named_cost("sequential_steps", machines=4)
        SequentialSteps(machines=4, order='critical_path')
    """
    if name not in get_args(CostName):
        known = ", ".join(get_args(CostName))
        raise ValueError(f'there is no cost named "{name}"; the names are {known}.')
    if name == "sequential_steps":
        return SequentialSteps(machines, order)
    if machines != 1:
        raise ValueError(f'machines={machines} is for the cost "sequential_steps", not "{name}".')
    if order != "critical_path":
        raise ValueError(f'order={order!r} is for the cost "sequential_steps", not "{name}".')
    if name == "latency":
        return Latency()
    return multiply_adds if name == "multiply_adds" else parameters


def as_cost(cost: CostName | Cost, machines: int = 1, order: Order = "critical_path") -> Cost:
    """A cost, or the one with a name.

    Args:
        cost: a name, with the other arguments of `named_cost`, or a function of a wiring.
        machines: as for `named_cost`.
        order: as for `named_cost`.

    Raises:
        ValueError: as `named_cost`, or if it is no function.

    Example:
        >>> as_cost("parameters") is as_cost(parameters)
        True
    """
    if isinstance(cost, str):
        return named_cost(cost, machines, order)
    if not callable(cost):
        known = ", ".join(get_args(CostName))
        raise ValueError(
            f"a cost is a function from a wiring to a number, or one of the names {known}; got "
            f"{cost!r}."
        )
    try:
        signature(cost).bind("a wiring")
    except TypeError as problem:  # which says what the function needs besides
        raise ValueError(
            f"a cost is called with a wiring alone, but {name_of_cost(cost)} has a {problem}."
        ) from None
    except ValueError:  # of a function in C, which does not say what it takes
        return cost
    return cost
