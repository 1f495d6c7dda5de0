"""Whether an item's neighbours are in order, so that documents put it at one place however they come to know of it.

A Yjs item names the item on its left when it was written, its `origin`, and the one on its right. Documents find its
place among others that were written at once by comparing these, and that they all find the same hangs on what holds
for each honest item x = (o, r), since r came right after o where x was written, and whatever o and r name was there:

    o < r,  r <= o's right one,  r's origin <= o.                                            (1)

**The order.** Let the items form a tree, each below its origin, those without one below the start of what they are in.
If (1) holds for all, a document holds the tree in preorder: an item, then those below it. (Between x and y below it let
z be none below x, so that its origin is before x. Documents put y before z then unless z's right one, q, is not after
y. But q has its origin not after z's, and is like z; so there would be ever more between x and y.)

Siblings are ordered so: c is before d if it names d on its right, or a sibling that is not after d; if that decides
neither way, the lower client ID comes first, and of one client the later item. Call c's right one, if it is c's
sibling, the next of c; going on so gives the chain of c, and documents compare c and d as if they merged both chains
from their ends, the greater first. Hence where the chains have parted, the one with the least item has the item that
comes first. Equally: for each item take the next in its chain that is less, and so on; from the ends of these shorter
chains compare item by item, and one that goes on is before one that ends. A client is in such a chain once at most,
since its earlier items are greater than its later ones: so chains are short.

**The check.** (1) is to be found out from the tree for items for which it held. If r's origin is o, r is before all
that is not below o, hence before o's right one; and if r is o's right one, all has been found when o was written.
Otherwise r's origin, l, has to be above o; the one below l that o is below, or is, has to come before its sibling r;
and if o has a right one, its origin has to be above l, or l itself with r not after it.

Nothing of this asks for any item but those that x refers to, directly or not. So whether an update is accepted is a
matter of what its author has seen. That documents follow the order described here is not proven here but tested.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import ItemId, Struct

NOWHERE: Final = 0
"""Node of the items that have no order: in no document, or a key's values."""

# A node is a run: items of one client, each the origin of the next, with one right neighbour. These are its fields.
_SLOT, _START, _ORIGIN, _ORIGIN_CLOCK, _RIGHT, _RIGHT_CLOCK, _LESS, _DEPTH, _JUMP = range(9)
_FIELDS = 9


class _Element(NamedTuple):
    """An item by its run and clock; the start of a list or text is one too."""

    node: int
    clock: int


_NONE = _Element(NOWHERE, 0)


class _Client:
    """A client's runs: where each starts, and its node."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.starts = array("I")
        self.nodes = array("I")

    def at(self, clock: int) -> int:
        return self.nodes[bisect_right(self.starts, clock) - 1]

    def last(self) -> int:
        return self.nodes[-1] if self.nodes else NOWHERE


class ItemOrder:
    """The neighbours of every item of lists and texts; 44 bytes for each run.

    Items are added to a draft, in causal order, and stay when `keep` is called; `begin` drops what was not kept.
    """

    def __init__(self) -> None:
        self._nodes = array("I", bytes(4 * _FIELDS))
        self._ids: list[int] = []
        self._clients: dict[int, _Client] = {}
        self._heads: dict[str | ItemId, int] = {}
        self._drafted: list[_Client] = []
        self._new_heads: list[str | ItemId] = []
        self._kept = len(self._nodes)

    def begin(self) -> None:
        """Begin a draft; drop the one before unless it was kept."""
        del self._nodes[self._kept :]
        for client in self._drafted:
            client.starts.pop()
            client.nodes.pop()
        for head in self._new_heads:
            del self._heads[head]
        self.keep()

    def keep(self) -> None:
        """Let the draft stay."""
        self._kept = len(self._nodes)
        self._drafted.clear()
        self._new_heads.clear()

    def add(self, client: int, struct: Struct, *, nowhere: bool) -> None:
        """Add items to the draft. All that they refer to, and their client's items before, have been added.

        Args:
            client: Who wrote them.
            struct: The items.
            nowhere: They have no order: they are garbage, in what is not known any more, or a key's values.

        Raises:
            DocumentUpdateError: Their neighbours are not in order, or not in one list or text.
        """
        runs = self._clients.get(client)
        if runs is None:
            runs = self._clients[client] = _Client(len(self._ids))
            self._ids.append(client)
        if not nowhere and struct.parent is None and self._goes_on(runs, client, struct):
            return
        if nowhere:
            origin = right = _NONE
        elif struct.parent is not None:
            origin, right = _Element(self._head(struct.parent), 0), _NONE
        else:
            origin, right = self._neighbours(struct)
        if origin.node != NOWHERE:
            node = self._new_node(runs.slot, struct.clock, origin, right)
        elif runs.nodes and runs.last() == NOWHERE:
            return
        else:
            node = NOWHERE
        runs.starts.append(struct.clock)
        runs.nodes.append(node)
        self._drafted.append(runs)

    def _goes_on(self, runs: _Client, client: int, struct: Struct) -> bool:
        """Whether the items belong to their client's last run."""
        if struct.origin != (client, struct.clock - 1):
            return False
        last = runs.last()
        if last == NOWHERE:
            return False
        at = last * _FIELDS
        right = self._nodes[at + _RIGHT]
        if struct.right_origin is None:
            return right == NOWHERE
        return (
            right != NOWHERE
            and self._nodes[at + _RIGHT_CLOCK] == struct.right_origin.clock
            and self._ids[self._nodes[right * _FIELDS + _SLOT]] == struct.right_origin.client
        )

    def _neighbours(self, struct: Struct) -> tuple[_Element, _Element]:
        """The neighbours, checked; without a left one, the start of what they are in."""
        right = self._find(struct.right_origin)
        origin = self._find(struct.origin)
        if struct.origin is None:
            if right.node == NOWHERE:
                return _NONE, _NONE
            origin = self._origin(right)
            if self._nodes[origin.node * _FIELDS + _DEPTH]:
                raise DocumentUpdateError("an item is put at the start, before one that is not")
        elif struct.right_origin is None:
            if self._right(origin) != _NONE:
                raise DocumentUpdateError("an item is put at the end, after one that is not")
        elif (origin.node == NOWHERE) != (right.node == NOWHERE):
            raise DocumentUpdateError("an item is put between two of which one is nowhere")
        elif origin.node != NOWHERE and not self._in_order(origin, right):
            raise DocumentUpdateError(
                "an item is put between two that are not in this order, or not next to each other"
            )
        return origin, right

    def _find(self, item: ItemId | None) -> _Element:
        if item is None:
            return _NONE
        node = self._clients[item.client].at(item.clock)
        return _NONE if node == NOWHERE else _Element(node, item.clock)

    def _in_order(self, origin: _Element, right: _Element) -> bool:
        above = self._origin(right)
        beyond = self._right(origin)
        if origin == above or right == beyond:
            return True
        step = self._step(above, origin)
        if step is None or not self._before(step, right):
            return False
        if beyond == _NONE:
            return True
        above_beyond = self._origin(beyond)
        if above_beyond == above:
            return self._before(right, beyond)
        return self._step(above_beyond, above) is not None

    def _step(self, above: _Element, below: _Element) -> _Element | None:
        """The item right below the one that the other is below, or is."""
        nodes = self._nodes
        if above.node == below.node:
            return _Element(above.node, above.clock + 1) if above.clock < below.clock else None
        depth = nodes[above.node * _FIELDS + _DEPTH] + 1
        node = below.node
        while nodes[node * _FIELDS + _DEPTH] > depth:
            jump = nodes[node * _FIELDS + _JUMP]
            node = jump if nodes[jump * _FIELDS + _DEPTH] >= depth else nodes[node * _FIELDS + _ORIGIN]
        at = node * _FIELDS
        if nodes[at + _DEPTH] != depth or nodes[at + _ORIGIN] != above.node or nodes[at + _ORIGIN_CLOCK] < above.clock:
            return None
        if nodes[at + _ORIGIN_CLOCK] == above.clock:
            return _Element(node, nodes[at + _START])
        return _Element(above.node, above.clock + 1)

    def _before(self, one: _Element, other: _Element) -> bool:
        """Whether one of two siblings comes first."""
        chain, other_chain = self._chain(one), self._chain(other)
        while chain and other_chain:
            key, other_key = chain.pop(), other_chain.pop()
            if key != other_key:
                return key < other_key
        return bool(chain)

    def _chain(self, item: _Element) -> list[tuple[int, int]]:
        keys = []
        while item != _NONE:
            keys.append(self._key(item))
            item = self._less(item)
        return keys

    def _key(self, item: _Element) -> tuple[int, int]:
        return self._ids[self._nodes[item.node * _FIELDS + _SLOT]], -item.clock

    def _less(self, item: _Element) -> _Element:
        """The next in the item's chain that is less than it. Of the siblings only one can be inside of a run."""
        at = item.node * _FIELDS
        less = self._nodes[at + _LESS]
        if less == NOWHERE or self._nodes[at + _START] != item.clock:
            return _NONE
        if less == self._nodes[at + _ORIGIN]:
            return _Element(less, self._nodes[at + _ORIGIN_CLOCK] + 1)
        return _Element(less, self._nodes[less * _FIELDS + _START])

    def _origin(self, item: _Element) -> _Element:
        at = item.node * _FIELDS
        if self._nodes[at + _START] != item.clock:
            return _Element(item.node, item.clock - 1)
        return _Element(self._nodes[at + _ORIGIN], self._nodes[at + _ORIGIN_CLOCK])

    def _right(self, item: _Element) -> _Element:
        at = item.node * _FIELDS
        return _Element(self._nodes[at + _RIGHT], self._nodes[at + _RIGHT_CLOCK])

    def _head(self, parent: str | ItemId) -> int:
        """The start of what the parent holds: a run of one item above all others."""
        node = self._heads.get(parent)
        if node is None:
            node = self._heads[parent] = len(self._nodes) // _FIELDS
            self._new_heads.append(parent)
            self._nodes.extend((0, 0, NOWHERE, 0, NOWHERE, 0, NOWHERE, 0, node))
        return node

    def _new_node(self, slot: int, clock: int, origin: _Element, right: _Element) -> int:
        nodes = self._nodes
        node = len(nodes) // _FIELDS
        depth, jump = self._above(origin.node)
        nodes.extend((slot, clock, *origin, *right, NOWHERE, depth, jump))
        if right != _NONE and self._origin(right) == origin:
            key = (self._ids[slot], -clock)
            less = right
            while less != _NONE and self._key(less) > key:
                less = self._less(less)
            nodes[node * _FIELDS + _LESS] = less.node
        return node

    def _above(self, origin: int) -> tuple[int, int]:
        """Depth of a node below that one, and a node far above it: with these the way up is short (Myers, 1983)."""
        nodes = self._nodes
        jump = nodes[origin * _FIELDS + _JUMP]
        far = nodes[jump * _FIELDS + _JUMP]
        depth, depth_jump, depth_far = (nodes[node * _FIELDS + _DEPTH] for node in (origin, jump, far))
        return depth + 1, far if depth - depth_jump == depth_jump - depth_far else origin
