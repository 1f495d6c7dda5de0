"""Whether an item's neighbours are in order, so that all documents put it at the same place.

A Yjs item x names what it was put between: on its left its `origin` o, on its right its `right_origin` r. Documents
find its place among items written at the same time by comparing these, and believe that they are in order:

    r's origin <= o < r                                                                              (1)

It holds for what honest authors write: r came right after o, and an item comes after its origin. One x without (1) is
enough to make documents differ that get it in different orders. So such an x is put directly before r instead, as if
its origin was r's, for which (1) holds. A checkpoint writes items with other neighbours (`sequence.py`): then this also
happens to honest authors' items, where the one has folded the checkpoint and the other has not.

**The order.** The items form a tree, each below its origin, those without one below the start of what they are in. They
are ordered as this is walked: an item, then all that is below it. By (1) a right one is either the item's sibling or
after all that is below their origin. Let the next of an item be its right one, if that is its sibling, and its chain:
itself, its next, the next of that, and so on. Siblings are ordered by their chains: where two have parted, the one that
has had the lowest ID begins first, an ID being (client, -clock); and one that leads to the other's beginning does. So

    if c is before its sibling d, and has the higher ID, then c's next is d or before d.             (2)

**Documents follow it**, by induction. To put in x, a document goes from o through what is below o, up to r at most, and
puts x after the last sibling of a lower ID and all below that. (See `integrate` in
https://github.com/yjs/yjs/blob/v13.6.27/src/structs/Item.js; it compares clients only, but of one client's items the
later come later.) By (2) x is after that sibling; and were one of those further on before x, its next would be, too,
and the next of that. The document stops early at a sibling of a higher ID with the same right one: none of a lower ID
is after that and before the next of both, again by (2).

**What is kept.** Of the items that one client wrote one after another, each below the one before and without a next,
only the first: a run. For it, the first of a lower ID in its chain: the lowest IDs of two chains decide, if those are
one item's the lowest ones before it, and so on, so these links are enough. They lead to each client once at most, since
its later items have lower IDs. So that way is short; the one up the tree can be long, hence the jumps.

Nothing here asks for any item but those that x refers to, directly or not. So whether an update is accepted hangs on
what its author has seen, and on nothing else that a replica knows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

import msgspec

from lattica.errors import DocumentUpdateError
from lattica.store.arrays import pack, unpack
from lattica.store.yupdate import ItemId, Struct

_NOWHERE: Final = 0
"""Node of items that have no order: in no document, or a key's values."""

# A node is a run, or the start of a list or text. Its fields: its client's number and its first clock; the run and the
# clock of what that is below; the next of lower ID, 0 if none; how deep it is, and a run that it is far below.
_CLIENT, _START, _ORIGIN, _ORIGIN_CLOCK, _LOWER, _DEPTH, _JUMP = range(7)
_FIELDS = 7


class OrderDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The order of items as a snapshot holds it.

    Attributes:
        nodes: All nodes' fields, 4 bytes each, little endian.
        ids: The clients, by number.
        runs: For each of them the first clocks, and the nodes, of its runs.
        right: For each of them what was after its last item.
        roots: The starts of what roots hold.
        items: The starts of what items hold: client, clock and node.
    """

    nodes: bytes
    ids: list[int]
    runs: list[tuple[bytes, bytes]]
    right: list[tuple[int, int] | None]
    roots: dict[str, int]
    items: list[tuple[int, int, int]]


class _Item(NamedTuple):
    """An item, or the start of a list or text, by its run and clock."""

    node: int
    clock: int


_NONE = _Item(_NOWHERE, 0)
_UNCHECKED = ItemId(-1, -1)


class _Runs:
    """One client's runs: where each starts, and its node.

    Attributes:
        right: What was found to be after the last item, when this was added.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts = array("I")
        self.nodes = array("I")
        self.right: ItemId | None = _UNCHECKED

    def append(self, clock: int, node: int) -> None:
        if node != _NOWHERE or not self.nodes or self.nodes[-1] != _NOWHERE:
            self.starts.append(clock)
            self.nodes.append(node)

    def at(self, clock: int) -> int:
        return self.nodes[bisect_right(self.starts, clock) - 1]

    def cut(self, size: int) -> None:
        del self.starts[size:]
        del self.nodes[size:]
        self.right = _UNCHECKED


class ItemOrder:
    """The order of all items of lists and texts; 36 bytes for each run.

    Items are added to a draft, in causal order. `keep` makes it last, `begin` drops it and begins another.
    """

    def __init__(self) -> None:
        self._nodes = array("I", [0] * _FIELDS)
        self._ids: list[int] = []
        self._clients: dict[int, _Runs] = {}
        self._heads: dict[str | ItemId, int] = {}
        self._size = len(self._nodes)
        self._drafted: dict[int, int] = {}
        self._new_heads: list[str | ItemId] = []

    def dump(self) -> OrderDump:
        """All that is kept, for `load`."""
        self.begin()
        runs = [self._clients[client] for client in self._ids]
        return OrderDump(
            pack(self._nodes),
            list(self._ids),
            [(pack(found.starts), pack(found.nodes)) for found in runs],
            [None if found.right is None else (found.right.client, found.right.clock) for found in runs],
            {head: node for head, node in self._heads.items() if isinstance(head, str)},
            [(*head, node) for head, node in self._heads.items() if isinstance(head, ItemId)],
        )

    def load(self, dump: OrderDump) -> None:
        """Learn what was dumped; nothing must be known yet."""
        self._nodes, self._ids = unpack("I", dump.nodes), dump.ids
        for number, (client, (starts, nodes), right) in enumerate(zip(dump.ids, dump.runs, dump.right, strict=True)):
            runs = self._clients[client] = _Runs(number)
            runs.starts, runs.nodes = unpack("I", starts), unpack("I", nodes)
            runs.right = None if right is None else ItemId(*right)
        self._heads.update(dump.roots)
        self._heads.update((ItemId(client, clock), node) for client, clock, node in dump.items)
        self.keep()

    def begin(self) -> None:
        """Begin a draft. What was drafted before and not kept is dropped."""
        del self._nodes[self._size :]
        for client, size in self._drafted.items():
            self._clients[client].cut(size)
        for head in self._new_heads:
            del self._heads[head]
        self.keep()

    def keep(self) -> None:
        """Keep what was drafted."""
        self._size = len(self._nodes)
        self._drafted.clear()
        self._new_heads.clear()

    def add(self, client: int, struct: Struct, *, nowhere: bool) -> Struct:
        """Draft items. What they refer to, and what their client wrote before, must have been added.

        Args:
            client: Who wrote them.
            struct: The items.
            nowhere: They have no order: they are garbage, below such, or a key's values.

        Returns:
            Them, with the origin that they have to have so that their neighbours are in order.

        Raises:
            DocumentUpdateError: A neighbour is nowhere.
        """
        runs = self._clients.get(client)
        if runs is None:
            runs = self._clients[client] = _Runs(len(self._ids))
            self._ids.append(client)
        self._drafted.setdefault(client, len(runs.starts))
        goes_on = struct.origin == (client, struct.clock - 1)
        if goes_on and struct.right_origin == runs.right:
            return struct
        if nowhere:
            origin, following = _NONE, _NONE
        elif struct.parent is not None:
            origin, following = _Item(self._head(struct.parent), 0), _NONE
        else:
            origin, following = self._between(struct)
        runs.right = struct.right_origin
        if origin == _NONE:
            runs.append(struct.clock, _NOWHERE)
        elif not goes_on or following != _NONE:
            struct = self._below(struct, origin)
            runs.append(struct.clock, self._new_node(runs.number, struct.clock, origin, following))
        return struct

    def _below(self, struct: Struct, origin: _Item) -> Struct:
        """The items, if they are below that one."""
        at = origin.node * _FIELDS
        found = ItemId(self._ids[self._nodes[at + _CLIENT]], origin.clock) if self._nodes[at + _DEPTH] else None
        return struct if found == struct.origin else struct._replace(origin=found)

    def _between(self, struct: Struct) -> tuple[_Item, _Item]:
        """What the items are below, and the next in their chain."""
        right = self._find(struct.right_origin)
        origin = self._find(struct.origin)
        if right == _NONE:
            if struct.right_origin is not None and origin != _NONE:
                raise DocumentUpdateError("an item is put before one that is nowhere")
            return origin, _NONE
        above = self._origin(right)
        if struct.origin is None:
            return above, right
        if origin == _NONE:
            raise DocumentUpdateError("an item is put after one that is nowhere")
        if above == origin:
            return origin, right
        branch = self._branch(above, origin)
        if branch is None or not self._is_before(branch, right):
            return above, right
        return origin, _NONE

    def _find(self, item: ItemId | None) -> _Item:
        if item is None:
            return _NONE
        node = self._clients[item.client].at(item.clock)
        return _NONE if node == _NOWHERE else _Item(node, item.clock)

    def _origin(self, item: _Item) -> _Item:
        at = item.node * _FIELDS
        if self._nodes[at + _START] != item.clock:
            return _Item(item.node, item.clock - 1)
        return _Item(self._nodes[at + _ORIGIN], self._nodes[at + _ORIGIN_CLOCK])

    def _branch(self, above: _Item, item: _Item) -> _Item | None:
        """The one right below ``above`` that the item is, or is below; ``None`` if it is not below that."""
        nodes = self._nodes
        if above.node == item.node:
            return _Item(above.node, above.clock + 1) if above.clock < item.clock else None
        depth = nodes[above.node * _FIELDS + _DEPTH] + 1
        at = item.node * _FIELDS
        while nodes[at + _DEPTH] > depth:
            jump = nodes[at + _JUMP] * _FIELDS
            at = jump if nodes[jump + _DEPTH] >= depth else nodes[at + _ORIGIN] * _FIELDS
        if nodes[at + _DEPTH] != depth or nodes[at + _ORIGIN] != above.node or nodes[at + _ORIGIN_CLOCK] < above.clock:
            return None
        if nodes[at + _ORIGIN_CLOCK] > above.clock:
            return _Item(above.node, above.clock + 1)
        return _Item(at // _FIELDS, nodes[at + _START])

    def _is_before(self, one: _Item, other: _Item) -> bool:
        """Whether one of two siblings comes first."""
        chain, other_chain = self._lower_ids(one), self._lower_ids(other)
        while chain and other_chain:
            lowest, other_lowest = chain.pop(), other_chain.pop()
            if lowest != other_lowest:
                return lowest < other_lowest
        return bool(chain)

    def _lower_ids(self, item: _Item) -> list[tuple[int, int]]:
        ids = []
        while item != _NONE:
            ids.append(self._id(item))
            item = self._lower(item)
        return ids

    def _id(self, item: _Item) -> tuple[int, int]:
        return self._ids[self._nodes[item.node * _FIELDS + _CLIENT]], -item.clock

    def _lower(self, item: _Item) -> _Item:
        """The next in the item's chain that has a lower ID. One of its siblings may be inside of the run above."""
        at = item.node * _FIELDS
        lower = self._nodes[at + _LOWER]
        if lower == _NOWHERE or self._nodes[at + _START] != item.clock:
            return _NONE
        if lower == self._nodes[at + _ORIGIN]:
            return _Item(lower, self._nodes[at + _ORIGIN_CLOCK] + 1)
        return _Item(lower, self._nodes[lower * _FIELDS + _START])

    def _head(self, parent: str | ItemId) -> int:
        """The start of what the parent holds: a node above all others."""
        node = self._heads.get(parent)
        if node is None:
            node = self._heads[parent] = len(self._nodes) // _FIELDS
            self._new_heads.append(parent)
            self._nodes.extend((0, 0, _NOWHERE, 0, _NOWHERE, 0, node))
        return node

    def _new_node(self, number: int, clock: int, origin: _Item, following: _Item) -> int:
        nodes = self._nodes
        own = (self._ids[number], -clock)
        lower = following
        while lower != _NONE and self._id(lower) > own:
            lower = self._lower(lower)
        above, jump = origin.node * _FIELDS, nodes[origin.node * _FIELDS + _JUMP]
        far = nodes[jump * _FIELDS + _JUMP]
        # Myers, An applicative random-access stack (1983): with such jumps no way up has more than logarithmic length.
        depth, depth_jump, depth_far = (
            nodes[above + _DEPTH],
            nodes[jump * _FIELDS + _DEPTH],
            nodes[far * _FIELDS + _DEPTH],
        )
        jump = far if depth - depth_jump == depth_jump - depth_far else origin.node
        nodes.extend((number, clock, *origin, lower.node, depth + 1, jump))
        return len(nodes) // _FIELDS - 1
